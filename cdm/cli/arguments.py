"""Parts of the parser that the groups of verbs share."""

import argparse


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one line."""

    def error(self, message):
        self.exit(2, f"cdm: {message}\n")


def verb(verbs, name, run, help, draws=False):
    """The parser of a new verb, which calls `run`. One that `draws` pictures has each core of a CPU as a device."""
    p = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
    p.set_defaults(run=run, draws=draws)
    return p


def group(verbs, name, help):
    """The place of the verbs of a new group: `cdm NAME VERB`."""
    p = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
    return p.add_subparsers(dest=f"{name}_verb", required=True, metavar="VERB")


def values(kind):
    """A type of one value or several, comma-separated."""

    def parse(text):
        found = [kind(part) for part in text.split(",")]
        return found if len(found) > 1 else found[0]

    parse.__name__ = kind.__name__
    return parse


def positive(text):
    """A type of positive integers."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)

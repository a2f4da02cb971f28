"""Protocol cards: a result, and all that it depends on but the images measured.

    kind       distribution, cas, …
    protocol   what must be equal for two results to be compared: features and the hash of their weights, resize, N,
               reference, settings and seeds of the metrics
    results    {metric: {"mean", "blocks": a value a block, "interval": 95 % by Student's t where there are several}},
               in groups where a card has them
    about      what a reader wants to know besides: where the images came from, versions of the software

Two cards that differ in protocol are refused, by the name of the first field that does.
"""

import json
import pathlib
import platform

import jax
import numpy as np

import cdm
from cdm.evals import intervals
from cdm.images.files import write_json

SCHEMA_VERSION = 1


def versions():
    """What made a card."""
    return {"cdm": cdm.__version__, "jax": jax.__version__, "numpy": np.__version__,
            "python": platform.python_version(), "backend": jax.default_backend()}


def summary(values):
    """{"mean", "blocks", "interval"} of a value a block of images."""
    values = [float(v) for v in values]
    found = {"mean": float(np.mean(values)), "blocks": values}
    if len(values) > 1:
        found["interval"] = intervals.student(values)
    return found


def write(path, card):
    """{"kind", "protocol", "results", …} as JSON; the version of the format and of the software are added."""
    write_json(path, {"schema_version": SCHEMA_VERSION, "kind": card["kind"], "protocol": card["protocol"],
                      "results": card["results"], "about": {**card.get("about", {}), "versions": versions()}})


def read(path):
    """The card at `path`."""
    try:
        card = json.loads(pathlib.Path(path).read_text())
        if card["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {card['schema_version']}, this version of cdm reads {SCHEMA_VERSION}")
        card["kind"], card["protocol"].items(), card["results"].items()
    except OSError as e:
        raise ValueError(f"`card` (={path}) must be a file that can be read: {e.strerror}") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"`card` (={path}) must be a protocol card: {type(e).__name__}: {e}") from e
    return card


def _fields(value, name=""):
    """(dotted name, value) of the leaves of nested dicts, in order."""
    if not isinstance(value, dict) or not value:
        yield name, value
        return
    for key, inner in value.items():
        yield from _fields(inner, f"{name}.{key}" if name else key)


def _values(results, name=""):
    """(dotted name, {"mean", …}) of every number in the results of a card."""
    if isinstance(results, int | float):
        yield name, {"mean": results}
    elif isinstance(results, dict) and isinstance(results.get("mean"), int | float):
        yield name, results
    elif isinstance(results, dict):
        for key, inner in results.items():
            yield from _values(inner, f"{name}.{key}" if name else key)


def compare(a, b):
    """{metric: {"a", "b", "difference": b - a, "interval"}} of two cards of one protocol, of the metrics in both.
    Where both have several blocks, the interval is Welch's, or Student's of the differences where a block is a picture
    (`about.names`) and both are of the same ones. ValueError names the first field that differs."""
    fields = [dict(_fields({"kind": card["kind"], **card["protocol"]})) for card in (a, b)]
    for name in [*fields[0], *(name for name in fields[1] if name not in fields[0])]:
        ours, theirs = (found.get(name, "not there") for found in fields)
        if ours != theirs:
            raise ValueError(f"`{name}` must be equal for two cards to be compared; it is {ours} and {theirs}")
    found, others = {}, dict(_values(b["results"]))
    pictures = [card.get("about", {}).get("names") for card in (a, b)]
    for name, ours in _values(a["results"]):
        if name not in others:
            continue
        theirs = others[name]
        found[name] = {"a": ours["mean"], "b": theirs["mean"], "difference": theirs["mean"] - ours["mean"]}
        blocks = [value.get("blocks", ()) for value in (ours, theirs)]
        if min(map(len, blocks)) > 1:
            found[name]["interval"] = (intervals.student(np.subtract(blocks[1], blocks[0]))
                                       if pictures[0] and pictures[0] == pictures[1] else intervals.welch(*blocks))
    return found

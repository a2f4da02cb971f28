"""The command line: `cdm VERB …`. Verbs import their heavy parts when they run; nothing here starts a backend.

Exit codes: 0 done; 1 a run that came to nothing or is not well; 2 the user's mistake, one line on standard error; 75
stopped by SIGTERM with everything saved.
"""

import os
import platform
import sys

import cdm
from cdm.cli import data, evals, interop, sampling, study, training, upscaling
from cdm.cli.arguments import Parser


def _start():
    """Settings that JAX reads when it is imported, unless the user made them."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "cdm", "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def _in_large_pages():
    """Begin this process anew with an allocator that asks for large pages, unless the user said something of it.

    A program's memory is fresh at every call, and the kernel hands it out page by page: in pages of 4 KB that is a
    tenth and more of the time of a call (docs/speed.md). glibc reads this when a process begins and never again.
    """
    said = os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] == "glibc" and "glibc.malloc.hugetlb" not in said:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (said, "glibc.malloc.hugetlb=1")))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def parser():
    """The argument parser of `cdm`."""
    top = Parser(prog="cdm", description=cdm.__doc__.split("\n")[0], allow_abbrev=False)
    top.add_argument("--version", action="version", version=cdm.__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for part in (sampling, upscaling, training, interop, data, evals, study):
        part.add(verbs)
    return top


def command():
    """`cdm` as a process of its own."""
    _in_large_pages()
    sys.exit(main())


def main(argv=None):
    """Run the command line; returns the exit code."""
    args, args_left = parser().parse_known_args(argv)
    if "config" in args:
        args.overrides = args_left
    elif args_left:
        parser().error(f"unrecognized arguments: {' '.join(args_left)}")
    _start()
    try:
        if args.draws:
            from cdm import devices

            devices.of_cores()
        return args.run(args) or 0
    except (ValueError, OSError) as e:
        print(f"cdm: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cdm: stopped", file=sys.stderr)
        return 130

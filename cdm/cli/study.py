"""The verbs of `cdm study`: serve, report."""

import argparse

from cdm.cli.arguments import group, positive, verb


def serve(args):
    """Serve a study until it is stopped."""
    from cdm.evals.study.design import protocol
    from cdm.evals.study.pictures import Folders
    from cdm.evals.study.store import Store, create

    try:
        from cdm.evals.study.app import serve
    except ImportError as e:
        raise ValueError(f"`study serve` needs the extra [study]: pip install '.[study]' ({e})") from e

    given = {name: value for name in ("task", "per_rater", "view_seconds", "seed")
             if (value := getattr(args, name)) is not None}
    if args.real:
        methods = args.methods or []
        if len(dict(methods)) < len(methods):
            raise ValueError("`methods` must have names that differ")
        folders = Folders(args.real, dict(methods), args.lowres)
        store = create(args.store, protocol(folders, **given), folders)
    elif given or args.methods or args.lowres:
        raise ValueError("`real` must be given to make a study; one that is gone on with is as it was made")
    else:
        store = Store(args.store)
    try:
        serve(store, args.host, args.port, args.contact)
    finally:
        store.close()


def report(args):
    """Write the report on a study."""
    from cdm.evals.study.report import write_report
    from cdm.evals.study.store import Store

    store = Store(args.store)
    try:
        results = write_report(store, args.out)["results"]
    finally:
        store.close()
    for name, m in results["methods"].items():
        low, high = m["wilson_95"]
        print(f"{name}: fool rate {m['fool_rate']:.1%} ({low:.1%} to {high:.1%}) of {m['trials']} trials")
    raters = results["raters"]
    print(f"raters: {raters['finished']} finished, {raters['left_out']} did not and are left out; see "
          f"{args.out}/report.html")


def _named_folder(text):
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, folder


def add(verbs):
    """Add them to the parser."""
    verbs = group(verbs, "study", "ask people which picture is real")
    p = verb(verbs, "serve", serve, "serve the web page of a study; stop and start it at will")
    p.add_argument("--store", required=True, metavar="FILE.sqlite",
                   help="the study: made of the folders if it is new; alone, it is gone on with")
    p.add_argument("--real", metavar="FOLDER", help="real pictures, which say what pictures there are")
    p.add_argument("--methods", nargs="+", type=_named_folder, metavar="NAME=FOLDER",
                   help="pictures to compare with them, of the same names but for the endings")
    p.add_argument("--lowres", metavar="FOLDER", help="low-res pictures, for task 1")
    p.add_argument("--task", type=int, choices=[1, 2],
                   help="1: with the low-res picture in the middle; 2: without (default)")
    p.add_argument("--per-rater", type=positive, metavar="N",
                   help="pairs a rater (default: 50, or all if there are fewer)")
    p.add_argument("--view-seconds", type=float, metavar="S", help="that pictures are shown (default: 3)")
    p.add_argument("--seed", type=int, help="of the assignment (default: 0)")
    p.add_argument("--contact", metavar="TEXT", help="whom raters may ask, for the first page")
    p.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    p.add_argument("--port", type=int, default=8000, help="default: 8000; 0 is any that is free")
    p = verb(verbs, "report", report, "write fool rates with intervals, best and worst pictures, and a figure")
    p.add_argument("store", metavar="FILE.sqlite", help="a study")
    p.add_argument("--out", required=True, metavar="DIR", help="folder to write into")

"""The verbs of `cdm data`: check, pack."""

from cdm.cli.arguments import group, positive, verb


def check_source(args):
    """Read every picture of a source and list what is odd."""
    from cdm.data.check import check, summary
    from cdm.data.sources import open_source
    from cdm.images.files import write_json

    report = check(open_source(args.source), args.size)
    if args.out:
        write_json(args.out, report)
    print(summary(report))


def pack_source(args):
    """Write the pictures of a source as a pack."""
    from cdm.data.files import unpacked
    from cdm.data.packs import pack
    from cdm.data.sources import open_source

    with unpacked(args.source, args.out) as source:
        index = pack(open_source(source), args.out, args.size, args.square)
    for name, reason in index["bad"].items():
        print(f"left out: {name}: {reason}")
    print(f"{len(index['names'])} pictures at {args.size}x{args.size} in {args.out}, {len(index['bad'])} left out; "
          f"train on it with --config.data.source={args.out}")


def add(verbs):
    """Add them to the parser."""
    verbs = group(verbs, "data", "check or pack a set of pictures")
    source_help = "what data.source of a config may be"
    p = verb(verbs, "check", check_source, "read every picture; list corrupt and odd ones")
    p.add_argument("source", metavar="SOURCE", help=source_help)
    p.add_argument("--size", type=positive, metavar="N", help="also list pictures with a side shorter than this")
    p.add_argument("--out", metavar="FILE.json", help="write the whole list")
    p = verb(verbs, "pack", pack_source, "write the pictures as squares into one file")
    p.add_argument("source", metavar="SOURCE", help=source_help + ", or a compressed tar")
    p.add_argument("--size", type=positive, required=True, metavar="N", help="pixels of a side")
    p.add_argument("--square", default="center", choices=["center", "adm"],
                   help="the middle by the one resize, or as guided-diffusion does (default: center)")
    p.add_argument("--out", required=True, metavar="PACK", help="folder to write; must not exist yet")

"""The verbs of `cdm data`: check, pack."""

from cdm.cli.arguments import group, positive, verb


def check_source(args):
    """Read every picture of a source and list what is odd."""
    from cdm.data.check import check, summary
    from cdm.data.pairs import open_data
    from cdm.images.files import write_json

    report = check(open_data(args.source, args.lowres), args.size)
    if args.out:
        write_json(args.out, report)
    print(summary(report))


def pack_source(args):
    """Write the pictures of a source as a pack, or pairs as two."""
    from cdm.data.files import unpacked
    from cdm.data.packs import pack, pack_pairs
    from cdm.data.pairs import open_data

    if bool(args.lowres) != bool(args.lowres_size):
        raise ValueError(f"`lowres` (={args.lowres}) must come with `lowres_size` (={args.lowres_size})")
    if args.lowres and args.square != "center":
        raise ValueError(f"`square` (={args.square}) must be center for pairs")
    with unpacked(args.source, args.out) as source, unpacked(args.lowres, args.out) as lowres:
        found = open_data(source, lowres)
        index = (pack_pairs(found, args.out, args.size, args.lowres_size) if args.lowres else
                 pack(found, args.out, args.size, args.square))
    for name, reason in index["bad"].items():
        print(f"left out: {name}: {reason}")
    what = f"pairs at {args.size} and {args.lowres_size} px" if args.lowres else f"pictures at {args.size}x{args.size}"
    how = f"/high --config.data.lowres={args.out}/low" if args.lowres else ""
    print(f"{len(index['names'])} {what} in {args.out}, {len(index['bad'])} left out; "
          f"train on it with --config.data.source={args.out}{how}")


def add(verbs):
    """Add them to the parser."""
    verbs = group(verbs, "data", "check or pack a set of pictures")
    source_help = "what data.source of a config may be"
    p = verb(verbs, "check", check_source, "read every picture; list corrupt and odd ones")
    p.add_argument("source", metavar="SOURCE", help=source_help)
    p.add_argument("--lowres", metavar="SOURCE", help="their low-res pictures, as data.lowres: what is wrong as pairs")
    p.add_argument("--size", type=positive, metavar="N", help="also list pictures with a side shorter than this")
    p.add_argument("--out", metavar="FILE.json", help="write the whole list")
    p = verb(verbs, "pack", pack_source, "write the pictures as squares into one file")
    p.add_argument("source", metavar="SOURCE", help=source_help + ", or a compressed tar")
    p.add_argument("--size", type=positive, required=True, metavar="N", help="pixels of a side")
    p.add_argument("--lowres", metavar="SOURCE", help="their low-res pictures, as data.lowres: two packs, cut alike")
    p.add_argument("--lowres-size", type=positive, metavar="N", help="pixels of a side of these")
    p.add_argument("--square", default="center", choices=["center", "adm"],
                   help="the middle by the one resize, or as guided-diffusion does (default: center)")
    p.add_argument("--out", required=True, metavar="PACK", help="folder to write; must not exist yet")

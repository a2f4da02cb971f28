"""The verbs of `cdm import`: adm."""

from cdm.cli.arguments import group, verb


def import_adm(args):
    """Make a stage folder of a checkpoint of guided-diffusion."""
    from cdm.interop import adm

    stage = adm.import_stage(args.checkpoint, args.out, args.flags)
    kind = f"{stage.lowres_size} to {stage.size} px" if stage.lowres_size else f"{stage.size} px"
    print(f"wrote {args.out}: {stage.name}, {kind}, {len(stage.classes) or 'no'} classes")


def add(verbs):
    """Add them to the parser."""
    verbs = group(verbs, "import", "make a stage folder of other people's weights")
    p = verb(verbs, "adm", import_adm, "of a model or upsampler of guided-diffusion (ADM)")
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="its .pt file")
    p.add_argument("--flags", metavar='"--image_size 64 …"',
                   help="what guided-diffusion's scripts are told of it (MODEL_FLAGS), or the name of a published file "
                        "(default: the file's own name)")
    p.add_argument("--out", required=True, metavar="STAGE", help="folder to write; must not exist yet")

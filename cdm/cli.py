"""The command line: `cdm VERB …`. Verbs import their heavy parts when they run; nothing here starts a backend.

Exit codes: 0 done; 1 a run that came to nothing or is not well; 2 the user's mistake, one line on standard error; 75
stopped by SIGTERM with everything saved.
"""

import argparse
import json
import os
import pathlib
import sys

import cdm


def _start():
    """Settings that JAX reads when it is imported, unless the user made them."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "cdm", "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    # XLA's own convolution is faster on the CPU than the kernel it is fused into by default.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution")


def _list(kind):
    """A parser of one value or several, comma-separated."""

    def parse(text):
        values = [kind(part) for part in text.split(",")]
        return values if len(values) > 1 else values[0]

    parse.__name__ = kind.__name__
    return parse


def sample(args):
    """Write samples of a cascade into a folder."""
    from cdm.cascade import shipped
    from cdm.samples import write_samples

    cascade = cdm.load_cascade(args.cascade or shipped())
    if not args.classes and cascade.classes:
        raise ValueError(f"`class` must be named, one or more of: "
                         f"{', '.join(f'{i} {name}' for i, name in enumerate(cascade.classes))}")
    labels = [cascade.stages[0].label(which) for which in args.classes or [0]]
    about = write_samples(
        cascade, args.out, labels, args.n, args.seed, args.batch_size, args.start_at, args.stop_at, args.format,
        steps=args.steps, guidance=args.guidance, aug_level=args.aug_level, sampler=args.sampler,
        hand_over=args.hand_over)
    of = f" of {len({i['label'] for i in about['images']})} classes" if cascade.classes else ""
    print(f"{len(about['images'])} images{of} in {args.out}")


def demo(args):
    """Write an image of every class of the cascade in the package."""
    from cdm.cascade import shipped
    from cdm.samples import write_samples

    cascade = cdm.load_cascade(shipped())
    write_samples(cascade, args.out, range(len(cascade.classes)), n=1)
    print(f"an image of each class: {pathlib.Path(args.out) / 'grid.png'}\n"
          f"each alone, and what every stage made of it, in {args.out}; how, in samples.json")


def train(args):
    """Train a stage, or go on with its run."""
    from cdm import config
    from cdm.training import loop, mesh, stop

    settings = config.load(args.config, args.overrides)
    if settings.train.deterministic:  # heard only before the backend starts
        os.environ["XLA_FLAGS"] += " --xla_gpu_deterministic_ops=true"
    if args.distributed or args.coordinator or args.processes is not None or args.process is not None:
        mesh.join(args.coordinator, args.processes, args.process)
    try:
        loop.train(settings, args.workdir)
    except stop.Stopped as e:
        print(f"cdm: {e}", file=sys.stderr)
        return 75
    except FloatingPointError as e:
        print(f"cdm: {e}", file=sys.stderr)
        return 1
    except Exception as e:
        if mesh.alone():
            raise
        # The others wait for this process: it goes at once, without the goodbyes that would wait for them.
        code = 2 if isinstance(e, (ValueError, OSError)) else 1
        print(f"cdm: process {mesh.place()} ended: {' '.join(str(e).split())}", file=sys.stderr, flush=True)
        os._exit(code)
    if mesh.leads():
        print(f"trained; next: cdm export {args.workdir} --out STAGE")


def _quiet():
    """Orbax warns that a run it reads from is opened to read."""
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)


def export(args):
    """Write a run as a stage folder, or several as a cascade folder."""
    from cdm.training import run

    _quiet()
    run.export(args.runs, args.out, args.at, args.dtype, args.ema_sigma)
    print(f"wrote {args.out}")


def describe_(args):
    """Print what a config's stage amounts to, as JSON."""
    from cdm import config
    from cdm.describe import describe

    print(json.dumps(describe(config.load(args.config, args.overrides)), indent=2))


def init(args):
    """Write the configs of a cascade for one's own pictures."""
    from cdm.starter import write_configs

    files = write_configs(args.data, args.sizes if isinstance(args.sizes, list) else [args.sizes], args.out)
    runs = [f"runs/{file.stem}" for file in files]
    print("\n".join([*(f"cdm train --config={file} --workdir={run}" for file, run in zip(files, runs)),
                     f"cdm export {' '.join(runs)} --out cascade"]))


def doctor_(args):
    """Examine a run."""
    from cdm.training.doctor import doctor

    _quiet()
    return 0 if doctor(args.workdir, args.steps) else 1


def data_check(args):
    """Read every picture of a source and list what is odd."""
    from cdm.data.check import check, summary
    from cdm.data.sources import open_source
    from cdm.images.files import write_json

    report = check(open_source(args.source), args.size)
    if args.out:
        write_json(args.out, report)
    print(summary(report))


def data_pack(args):
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


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one line."""

    def error(self, message):
        self.exit(2, f"cdm: {message}\n")


def parser():
    """The argument parser of `cdm`."""
    top = Parser(prog="cdm", description=cdm.__doc__.split("\n")[0], allow_abbrev=False)
    top.add_argument("--version", action="version", version=cdm.__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(run, help):
        p = verbs.add_parser(run.__name__.rstrip("_"), help=help, description=help, allow_abbrev=False)
        p.set_defaults(run=run)
        return p

    p = verb(demo, "sample an image of every class from the cascade that comes with the package")
    p.add_argument("--out", default="cdm-demo", help="folder to write (default: cdm-demo)")

    p = verb(sample, "sample images by class from a cascade, or from part of one")
    p.add_argument("--cascade", metavar="FOLDER", help="cascade folder (default: the one that comes with the package)")
    p.add_argument("--class", dest="classes", nargs="+", action="extend", metavar="CLASS", help="names or indices")
    p.add_argument("-n", type=int, default=1, help="images of each class (default: 1)")
    p.add_argument("--seed", type=int, default=0, help="default: 0")
    p.add_argument("--out", required=True, metavar="DIR", help="folder to write, or to go on writing")
    stages = "; one value, or one per stage, comma-separated"
    p.add_argument("--steps", type=_list(int), help="network evaluations" + stages)
    p.add_argument("--guidance", type=_list(float), metavar="W", help="class guidance weight w, 0 is off" + stages)
    p.add_argument("--aug-level", type=_list(float), metavar="A",
                   help="noise put on each super-resolution stage's input, in [0, 1]; "
                        "one value, or one per such stage")
    p.add_argument("--sampler", type=_list(str), help="ancestral, ddim or dpmpp_2m" + stages)
    p.add_argument("--hand-over", type=_list(str), help="non_truncated or truncated, per super-resolution stage")
    p.add_argument("--batch-size", type=int, metavar="B", help="images at a time")
    p.add_argument("--start-at", metavar="STAGE", help="go on from what --stop-at, or a whole run, left in --out")
    p.add_argument("--stop-at", metavar="STAGE", help="the last stage to run")
    p.add_argument("--format", default="png", help="png, zip or npz (default: png)")

    config_help = "config file; any value of it is overridden by --config.KEY=VALUE"
    p = verb(train, "train one stage; run again to resume")
    p.add_argument("--config", required=True, metavar="FILE", help=config_help)
    p.add_argument("--workdir", required=True, metavar="RUN", help="run folder, new or to resume")
    p.add_argument("--distributed", action="store_true", help="one process of a job of SLURM, a TPU pod or MPI")
    p.add_argument("--coordinator", metavar="HOST:PORT", help="one of a job started by hand: where process 0 is")
    p.add_argument("--processes", type=int, metavar="N", help="of that job")
    p.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")

    p = verb(init, "write the configs of a cascade, sized for your pictures and this device")
    p.add_argument("--data", required=True, metavar="SOURCE", help="what data.source of a config may be")
    p.add_argument("--sizes", type=_list(int), default=[32, 64, 128, 256], metavar="S,S,…",
                   help="pixels of each stage, rising (default: 32,64,128,256)")
    p.add_argument("--out", required=True, metavar="DIR", help="folder to write; must not exist yet")

    p = verb(doctor_, "examine a run: a verdict a line, and RUN/doctor.png; exits 1 if one of them is bad")
    p.add_argument("workdir", metavar="RUN", help="run folder")
    p.add_argument("--steps", type=int, default=100, help="of overfitting a few pictures (default: 100)")

    def positive(text):
        if not (text.isdecimal() and int(text)):
            raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
        return int(text)

    p = verbs.add_parser("data", help="check or pack a set of pictures", description="check or pack a set of pictures")
    verbs_of_data = p.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    source_help = "what data.source of a config may be"
    p = verbs_of_data.add_parser("check", help="read every picture; list corrupt and odd ones", allow_abbrev=False)
    p.set_defaults(run=data_check)
    p.add_argument("source", metavar="SOURCE", help=source_help)
    p.add_argument("--size", type=positive, metavar="N", help="also list pictures with a side shorter than this")
    p.add_argument("--out", metavar="FILE.json", help="write the whole list")
    p = verbs_of_data.add_parser("pack", help="write the pictures as squares into one file", allow_abbrev=False)
    p.set_defaults(run=data_pack)
    p.add_argument("source", metavar="SOURCE", help=source_help + ", or a compressed tar")
    p.add_argument("--size", type=positive, required=True, metavar="N", help="pixels of a side")
    p.add_argument("--square", default="center", choices=["center", "adm"],
                   help="the middle by the one resize, or as guided-diffusion does (default: center)")
    p.add_argument("--out", required=True, metavar="PACK", help="folder to write; must not exist yet")

    p = verb(describe_, "print the size, cost and shapes of a config's stage as JSON")
    p.add_argument("--config", required=True, metavar="FILE", help=config_help)

    p = verb(export, "write a run's averaged weights as a stage folder; several, lowest first, as a cascade folder")
    p.add_argument("runs", nargs="+", metavar="RUN", help="run folders (or, for a cascade, stage folders)")
    p.add_argument("--out", required=True, metavar="FOLDER", help="folder to write; must not exist yet")
    p.add_argument("--at", type=int, metavar="IMAGES", help="the checkpoint after so many images (default: the newest)")
    p.add_argument("--ema-sigma", type=float, metavar="S",
                   help="instead of the average by half-life, that of power-function profile with this deviation, "
                        "relative to the run's length, rebuilt from its snapshots")
    p.add_argument("--dtype", default="float32", choices=["float32", "float16"],
                   help="of the stored weights; they compute in float32 or bfloat16 all the same")
    return top


def main(argv=None):
    """Run the command line; returns the exit code."""
    args, args_left = parser().parse_known_args(argv)
    if "config" in args:
        args.overrides = args_left
    elif args_left:
        parser().error(f"unrecognized arguments: {' '.join(args_left)}")
    _start()
    try:
        return args.run(args) or 0
    except (ValueError, OSError) as e:
        print(f"cdm: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cdm: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""The verbs around training: train, distill, init, doctor, describe, export."""

import argparse
import json
import os
import sys

from cdm.cli.arguments import positive, values, verb


def train(args):
    """Train a stage, or go on with its run."""
    from cdm import config
    from cdm.training import loop, mesh, stop

    _quiet()
    settings = config.load(args.config, args.overrides)
    _prepare(settings)
    if args.distributed or args.coordinator or args.processes is not None or args.process is not None:
        mesh.join(args.coordinator, args.processes, args.process)
    try:
        loop.train(settings, args.workdir)
    except (stop.Stopped, FloatingPointError) as e:
        print(f"cdm: {e}", file=sys.stderr)
        return 75 if isinstance(e, stop.Stopped) else 1
    except Exception as e:
        if mesh.alone():
            raise
        # The others wait for this process: it goes at once, without the goodbyes that would wait for them.
        code = 2 if isinstance(e, (ValueError, OSError)) else 1
        print(f"cdm: process {mesh.place()} ended: {' '.join(str(e).split())}", file=sys.stderr, flush=True)
        os._exit(code)
    if mesh.leads():
        print(f"trained; next: cdm export {args.workdir} --out STAGE")


def _prepare(settings):
    """What a training needs of the process, before the backend starts."""
    if settings.train.deterministic:
        os.environ["XLA_FLAGS"] += " --xla_gpu_deterministic_ops=true"


def distill(args):
    """Train students of a stage that sample in ever fewer steps."""
    from cdm.stage import load_config
    from cdm.training import stop, students

    _quiet()
    steps = args.steps if isinstance(args.steps, list) else [args.steps]
    _prepare(students.student(args.stage, load_config(args.stage), steps[0], 0.0, args.overrides))
    try:
        stage = students.distill(args.stage, args.workdir, steps, args.guidance, args.overrides)
    except (stop.Stopped, FloatingPointError) as e:
        print(f"cdm: {e}", file=sys.stderr)
        return 75 if isinstance(e, stop.Stopped) else 1
    print(f"distilled; next: cdm export {stage} … --out CASCADE")


def _quiet():
    """Orbax warns that a run it reads from is opened to read. Of a save that fails it and the threads it leaves behind
    tell in many tracebacks, what `Checkpoints` says in a line."""
    import logging
    import warnings

    def hook(told):
        if str(told.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(told)

    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine 'async_serialize")
    sys.unraisablehook = hook


def export(args):
    """Write a run as a stage folder, or several as a cascade folder."""
    from cdm.training import run

    _quiet()
    run.export(args.runs, args.out, args.at, args.dtype, args.ema_sigma, dict(args.guide))
    print(f"wrote {args.out}")


def _pair(text):
    name, _, run = text.partition("=")
    if not (name and run):
        raise argparse.ArgumentTypeError(f"{text!r} is not STAGE=RUN")
    return name, run


def print_description(args):
    """Print what a config's stage amounts to, as JSON."""
    from cdm import config
    from cdm.data.sources import open_source
    from cdm.describe import describe

    settings = config.load(args.config, args.overrides)
    if args.classes is None:
        try:
            classes = open_source(settings.data.source).classes
        except ValueError as e:
            raise ValueError(f"{e}; without the pictures, --classes N says of how many classes they are") from e
    else:
        classes = [str(i) for i in range(args.classes)]
    print(json.dumps(describe(settings, classes), indent=2))


def init(args):
    """Write the configs of a cascade for one's own pictures."""
    from cdm.starter import write_configs

    files = write_configs(args.data, args.sizes if isinstance(args.sizes, list) else [args.sizes], args.out)
    runs = [f"runs/{file.stem}" for file in files]
    print("\n".join([*(f"cdm train --config={file} --workdir={run}" for file, run in zip(files, runs)),
                     f"cdm export {' '.join(runs)} --out cascade"]))


def examine(args):
    """Examine a run."""
    from cdm.training.doctor import doctor

    _quiet()
    return 0 if doctor(args.workdir, args.steps) else 1


def add(verbs):
    """Add them to the parser."""
    config_help = "config file; any value of it is overridden by --config.KEY=VALUE"
    p = verb(verbs, "train", train, "train one stage; run again to resume")
    p.add_argument("--config", required=True, metavar="FILE", help=config_help)
    p.add_argument("--workdir", required=True, metavar="RUN", help="run folder, new or to resume")
    p.add_argument("--distributed", action="store_true", help="one process of a job of SLURM, a TPU pod or MPI")
    p.add_argument("--coordinator", metavar="HOST:PORT", help="one of a job started by hand: where process 0 is")
    p.add_argument("--processes", type=int, metavar="N", help="of that job")
    p.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")

    p = verb(verbs, "distill", distill, "train students of a stage, each of half the steps of the one before; run again "
             "to resume")
    p.add_argument("stage", metavar="STAGE", help="stage folder: the first teacher, at twice the first student's steps")
    p.add_argument("--workdir", required=True, metavar="RUN", help="folder of the students, new or to resume; any value "
                   "of their config is overridden by --config.KEY=VALUE")
    p.add_argument("--steps", type=values(int), default=[16, 8, 4], metavar="S,S,…",
                   help="network evaluations of the students (default: 16,8,4)")
    p.add_argument("--guidance", type=float, metavar="W", help="of the first teacher, to be built in (default: its own)")
    p.set_defaults(config=None)  # which says that its values may be given

    p = verb(verbs, "init", init, "write the configs of a cascade, sized for your pictures and this device")
    p.add_argument("--data", required=True, metavar="SOURCE", help="what data.source of a config may be")
    p.add_argument("--sizes", type=values(int), default=[32, 64, 128, 256], metavar="S,S,…",
                   help="pixels of each stage, rising (default: 32,64,128,256)")
    p.add_argument("--out", required=True, metavar="DIR", help="folder to write; must not exist yet")

    p = verb(verbs, "doctor", examine,
             "examine a run: a verdict a line, and RUN/doctor.png; exits 1 if one of them is bad")
    p.add_argument("workdir", metavar="RUN", help="run folder")
    p.add_argument("--steps", type=positive, default=100, help="of overfitting a few pictures (default: 100)")

    p = verb(verbs, "describe", print_description, "print the size, cost and shapes of a config's stage as JSON")
    p.add_argument("--config", required=True, metavar="FILE", help=config_help)
    p.add_argument("--classes", type=int, metavar="N", help="of so many classes (default: those of the config's source)")

    p = verb(verbs, "export", export,
             "write a run's averaged weights as a stage folder; several, lowest first, as a cascade folder")
    p.add_argument("runs", nargs="+", metavar="RUN", help="run folders (or, for a cascade, stage folders)")
    p.add_argument("--out", required=True, metavar="FOLDER", help="folder to write; must not exist yet")
    p.add_argument("--at", type=int, metavar="IMAGES", help="the checkpoint after so many images (default: the newest)")
    p.add_argument("--ema-sigma", type=float, metavar="S",
                   help="instead of the average by half-life, that of power-function profile with this deviation, "
                        "relative to the run's length, rebuilt from its snapshots")
    p.add_argument("--guide", type=_pair, nargs="+", default=[], metavar="STAGE=RUN",
                   help="autoguidance: `--guidance` of this stage leads away from what that weaker run, or stage folder, "
                        "of the same task says, instead of from no class")
    p.add_argument("--dtype", default="float32", choices=["float32", "float16"],
                   help="of the stored weights; they compute in float32 or bfloat16 all the same")

"""The demo stages' train step, denoiser call and samplers, ours beside PyTorch's, in one table of ratios.

    pip install '.[reference]'
    export GLIBC_TUNABLES=glibc.malloc.hugetlb=1    # as the command cdm has it, and for all sides
    python -m experiments.speed --out experiments/speed/speed.json [--quick]

PyTorch's network is diffusers' UNet2DModel, channels last, of the same levels and as many parameters within 5 %, eager
and compiled, or what --kinds names: bfloat16 is compiled, with autocast, where ours is in float32 still. All sides of a
case take turns of half a second and more, `repeats` times over, so that other work on the machine falls on all alike;
the first call of a turn is not counted; a ratio is the other's least time over ours, above 1 where we are faster. Equal
work: a train step is forward, backward, clipping, Adam and one average, on crops as the config has them with the
low-res picture made of the whole; a sampler is the whole run; upscaling goes through the same windows. `flops` are of
one call of each network, by the direct convolution: with as many parameters, they are not equal. Compile times are of a
first call less a later one, of PyTorch with what its cache on the disk has. What --out holds already is not measured
again. Networks of the papers' size, which --stages may name, have one picture.
"""

import argparse
import json
import pathlib

import numpy as np

from cdm import devices
from cdm.images.files import write_json
from experiments.speed import ours as us
from experiments.speed import theirs as them
from experiments.speed.turns import STAGES, about, measure

# (what, arguments): batches are those of training, and of a small grid for samplers.
CASES = {"forward": ("forward", 16), "train": ("train", None),
         "upscale to 512 px, 4 steps": ("upscale", 512, "dpmpp_2m", 4),
         "dpmpp_2m, 20 steps": ("sampler", 4, "dpmpp_2m", 20), "ancestral, 250 steps": ("sampler", 1, "ancestral", 250)}
QUICK = ("forward", "train")
# Networks of the papers' size, and what of them is timed, of one picture: their training steps are too much for 24 GB
# with PyTorch's beside, but for one's.
PAPER = {"imagenet/base_32": ("forward",), "imagenet/sr_64": ("forward",), "imagenet/sr_256": ("forward",),
         "sr3/faces_64": ("forward", "train"), "sr3/faces_256_1024": ("forward",)}
# The whole cascade: images at once, and the steps of each stage.
CASCADE = 4, "dpmpp_2m", (8, 4, 4, 4)


def beside(ours, theirs, repeats):
    """{"ratio": the best of theirs over ours, "seconds": what `measure` says of each} of functions."""
    found = measure({"ours": ours, **theirs}, repeats)
    return {"ratio": min(found[kind]["least"] for kind in theirs) / found["ours"]["least"], "seconds": found}


def row(stage_name, case, kinds, repeats):
    """The row of a stage and a case."""
    ours = us.ours_of(stage_name)
    what, *arguments = CASES[case]
    if stage_name in PAPER:
        arguments = [1]
    elif what == "train":
        arguments = [ours.stage.config.train.batch_size]
    theirs = {kind: them.Theirs(ours.stage, ours.parameters, kind) for kind in kinds}
    found = {"stage": stage_name, "case": case, "batch": 1 if what == "upscale" else arguments[0],
             "parameters": {"ours": ours.parameters, "theirs": theirs[kinds[0]].parameters},
             "flops": {"ours": ours.flops, "theirs": theirs[kinds[0]].flops},
             **beside(getattr(ours, what)(*arguments),
                      {kind: getattr(net, what)(*arguments) for kind, net in theirs.items()}, repeats)}
    if what == "upscale":
        found["seconds_per_megapixel"] = {name: 1e6 * of["least"] / arguments[0]**2
                                          for name, of in found["seconds"].items()}
    return found


def cascade_row(kinds, repeats):
    """The row of all stages in a chain."""
    nets = [us.ours_of(name) for name in STAGES]
    theirs = {kind: [them.Theirs(net.stage, net.parameters, kind) for net in nets] for kind in kinds}
    found = beside(us.cascade(nets, *CASCADE), {kind: them.cascade(of, *CASCADE) for kind, of in theirs.items()},
                   repeats)
    return {"stage": "cascade", "case": f"{CASCADE[1]}, {' + '.join(map(str, CASCADE[2]))} steps", "batch": CASCADE[0],
            **found, "images_per_second": {name: CASCADE[0] / of["least"] for name, of in found["seconds"].items()}}


def _timed(name, case):
    """Whether there is such a case of a stage."""
    if name in PAPER:
        return case in PAPER[name]
    return CASES[case][0] != "upscale" or name != STAGES[0]


def rows(names, cases, kinds, repeats, done=()):
    """The row of the chain, then those of each case, but for the (stage, case) that are `done`."""
    if set(cases) == set(CASES) and set(names) == set(STAGES) and "cascade" not in dict(done):
        yield cascade_row(kinds, repeats)
    for case in cases:
        for name in names:
            if _timed(name, case) and (name, case) not in done:
                yield row(name, case, kinds, repeats)


def table(found):
    """As Markdown."""
    lines = ["| stage | case | batch | ours | PyTorch's best | ratio |", "|---|---|---|---|---|---|"]
    for each in found:
        ours = each["seconds"]["ours"]["least"]
        lines.append(f"| {each['stage']} | {each['case']} | {each['batch']} | {1e3 * ours:.0f} ms | "
                     f"{1e3 * ours * each['ratio']:.0f} ms | {each['ratio']:.2f} |")
    for what in dict.fromkeys(each["case"] for each in found):
        ratios = [each["ratio"] for each in found if each["case"] == what]
        if len(ratios) < 2:
            continue
        lines.append(f"| geometric mean | {what} | | | | {np.exp(np.mean(np.log(ratios))):.2f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--quick", action="store_true", help="forward and train step alone, without torch.compile")
    either.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", default=tuple(CASES),
                        help=f"of: {'; '.join(CASES)} (default: all, and the chain of all stages)")
    parser.add_argument("--stages", nargs="+", choices=(*STAGES, *PAPER), metavar="STAGE", default=STAGES,
                        help=f"of: {' '.join((*STAGES, *PAPER))} (default: the first four)")
    parser.add_argument("--kinds", nargs="+", choices=them.KINDS, metavar="KIND",
                        help=f"of PyTorch, of: {' '.join(them.KINDS)} (default: the first two; with --quick the first)")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    devices.of_cores()  # as commands that draw have them
    cases = QUICK if args.quick else args.cases
    kinds = args.kinds or them.KINDS[: 1 if args.quick else 2]
    if not any(_timed(name, case) for name in args.stages for case in cases):
        parser.error(f"--cases {', '.join(cases)}: none of them is timed of --stages {' '.join(args.stages)}")
    told, found = {**about(), "repeats": args.repeats, "theirs": list(kinds)}, []
    if args.out.exists():
        before = json.loads(args.out.read_text())
        found = before.pop("rows")
        if before != told:
            parser.error(f"--out {args.out} holds what was measured with {before}, this is {told}")
    for one in rows(args.stages, cases, kinds, args.repeats, [(each["stage"], each["case"]) for each in found]):
        found.append(one)
        print(f"{one['stage']}, {one['case']}: {one['ratio']:.2f}", flush=True)
        write_json(args.out, {**told, "rows": found})
    print(table(found))


if __name__ == "__main__":
    main()

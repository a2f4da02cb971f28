"""The training step of the paper's stages on one GPU or TPU: which share of the chip's matrix rate it reaches; of one
stage also beside PyTorch's network of as many parameters, on a chip that has enough memory for both at once.

    pip install '.[reference]'
    export XLA_PYTHON_CLIENT_PREALLOCATE=false
    python -m experiments.speed.accelerator --out accelerator.json --compare base_32

It has not been run to its end on a GPU yet: on an H200 the ceilings came, but in three and a half minutes not all
programs, of three stages and PyTorch's at once.

Both sides compute in bfloat16, with parameters, averages and Adam's moments in float32, on batches in the device's
memory; PyTorch channels last, by torch.compile and autocast, with its fused Adam. They take turns as in
`experiments.speed`. The FLOPs are those that `cdm describe` counts of a direct convolution, forward three times over;
their share is of a bfloat16 matrix product (8192 x 8192) measured in the same run, not of a datasheet. Programs are
compiled beside each other, ahead of all timing. PyTorch's network has no dropout and no learned variance.
"""

import argparse
import concurrent.futures
import pathlib
import time

import jax
import jax.numpy as jnp

from cdm.images.files import write_json
from cdm.training import speed
from experiments.speed.ours import ours_of
from experiments.speed.turns import about, ceilings, measure

STAGES = {"base_32": 64, "sr_64": 32, "sr_256": 8}  # of configs/imagenet, with the batch, on some 140 GB


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=tuple(STAGES))
    parser.add_argument("--compare", choices=STAGES, help="the stage that PyTorch has too")
    parser.add_argument("--share", type=float, default=1.0, help="of the batches, for chips with less memory")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", type=pathlib.Path, help="folder for a trace of three steps of each stage")
    args, overrides = parser.parse_known_args()
    if args.compare and args.compare not in args.stages:
        parser.error(f"--compare {args.compare} must be one of --stages {' '.join(args.stages)}")
    batches = {name: max(1, round(STAGES[name] * args.share)) for name in args.stages}
    nets = {name: ours_of(f"imagenet/{name}", overrides, drawn=False) for name in args.stages}
    result = {**about(), "repeats": args.repeats, "overrides": overrides,
              "ceilings": ceilings(args.repeats, 8192, 2**29, jnp.bfloat16, calls=10), "rows": []}
    print(result["ceilings"], flush=True)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        began = time.perf_counter()

        def compiled(name):
            start = nets[name].ahead(batches[name])
            print(f"{name}: ours compiled after {time.perf_counter() - began:.0f} s", flush=True)
            return start

        coming = {name: pool.submit(compiled, name) for name in args.stages}
        theirs = {}
        if args.compare:
            from experiments.speed.theirs import Theirs  # here, as the rest needs no PyTorch
            net = nets[args.compare]
            theirs["theirs"] = Theirs(net.stage, net.parameters, "compile").train(batches[args.compare])
            theirs["theirs"]()
            print(f"{args.compare}: PyTorch's compiled after {time.perf_counter() - began:.0f} s", flush=True)
    for name in sorted(args.stages, key=lambda name: name != args.compare):
        run, batch = coming.pop(name).result()(), batches[name]
        found = measure({"ours": run, **theirs}, args.repeats)
        theirs.clear()
        flops = batch * speed.flops_per_image(nets[name].stage)
        rate = flops / found["ours"]["least"]
        row = {"stage": name, "case": "train", "batch": batch, "parameters": nets[name].parameters, "flops": flops,
               "flops_per_second": rate, "share": rate / result["ceilings"]["matmul"], "seconds": found}
        if "theirs" in found:
            row["ratio"] = found["theirs"]["least"] / found["ours"]["least"]
        result["rows"].append(row)
        print({key: row.get(key) for key in ("stage", "batch", "share", "ratio", "seconds")}, flush=True)
        write_json(args.out, result)
        if args.profile:
            with jax.profiler.trace(str(args.profile / name)):
                for _ in range(3):
                    run()
        del run  # and with it the state


if __name__ == "__main__":
    main()

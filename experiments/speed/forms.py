"""Forms of the same computation and options of the compiler, on the CPU: why `cdm` has those that it has.

    pip install '.[reference]'
    python -m experiments.speed.forms --parts forms --out experiments/speed/forms.json

All that is compared takes turns, as in `experiments.speed`; seconds are the least of `repeats`.

1. forms: group norm with SiLU, its sums over the pixels first (cdm.nn.layers) or over a group's channels and the pixels
   at once, forward and with its gradient; the gradient of a 3x3 convolution's kernel by XLA, by nine matrix products of
   shifted pictures, and by one of patches; that convolution in float32 and bfloat16, forward. Shapes are those that the
   demo's networks are trained on, and one large picture.
2. options: the demo's training steps and denoiser calls (16 pictures) in processes of their own that differ by
   XLA_FLAGS.
"""

import argparse
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cdm.images.files import write_json
from cdm.nn.layers import GroupNorm, groups_of
from experiments.speed.ours import ours_of
from experiments.speed.turns import STAGES, about, measure

SHAPES = ((16, 32, 32), (16, 16, 64), (16, 8, 128), (8, 32, 24), (8, 64, 16), (1, 256, 64))  # batch, side, channels
# `import cdm` adds its own option to those that do not say it.
OPTIONS = {"as cdm has it": "", "XLA's own default": "--xla_cpu_experimental_ynn_fusion_type=+individual_convolution",
           "wide vectors": "--xla_cpu_prefer_vector_width=512"}


def at_once(x):
    """Group norm with sums over a group's channels and the pixels at once; scale 1, bias 0."""
    batch, height, width, channels = x.shape
    groups = groups_of(channels)
    y = x.reshape(batch, height * width, groups, channels // groups)
    mean = jnp.mean(y, axis=(1, 3), keepdims=True)
    factor = jax.lax.rsqrt(jnp.maximum(jnp.mean(y**2, axis=(1, 3), keepdims=True) - mean**2, 0) + 1e-5)
    factor, offset = (jnp.broadcast_to(v, (batch, 1, groups, channels // groups)).reshape(batch, 1, 1, channels)
                      for v in (factor, -mean * factor))
    return x * factor + offset


def convolution(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _shifted(x):
    """The nine pictures [B, H, W, C] that a kernel of 3x3 sees."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


def products(x, gradient):
    """The kernel's gradient, a matrix product a shift."""
    channels = x.shape[-1]
    flat = gradient.reshape(-1, channels)
    return jnp.stack([part.reshape(-1, channels).T @ flat for part in _shifted(x)]).reshape(3, 3, channels, channels)


def patches(x, gradient):
    """The same, one product of all patches."""
    channels = x.shape[-1]
    columns = jnp.concatenate(_shifted(x), -1).reshape(-1, 9 * channels)
    return (columns.T @ gradient.reshape(-1, channels)).reshape(3, 3, channels, channels)


def forms(repeats):
    """{what: {shape: {form: seconds}}}, every form of one thing found equal first."""
    random, norm = np.random.default_rng(0), GroupNorm()
    found = {"group norm": {}, "group norm and gradient": {}, "kernel's gradient": {}, "convolution": {}}
    for batch, side, channels in SHAPES:
        x, g = (jnp.asarray(random.standard_normal((batch, side, side, channels), np.float32)) for _ in range(2))
        kernel = jnp.asarray(random.standard_normal((3, 3, channels, channels), np.float32))
        params = norm.init(jax.random.key(0), x)
        ways = {"pixels first": lambda x: nn.silu(norm.apply(params, x)), "at once": lambda x: nn.silu(at_once(x))}
        cases = {
            "group norm": ({name: jax.jit(way) for name, way in ways.items()}, (x,)),
            "group norm and gradient": ({
                name: jax.jit(lambda x, g, way=way: jax.vjp(way, x)[1](g)[0]) for name, way in ways.items()}, (x, g)),
            "kernel's gradient": ({
                "XLA": jax.jit(lambda x, g: jax.vjp(lambda k: convolution(x, k), kernel)[1](g)[0]),
                "products": jax.jit(products), "patches": jax.jit(patches)}, (x, g)),
            "convolution": ({"float32": jax.jit(convolution), "bfloat16": jax.jit(lambda x, k, of=jnp.bfloat16: (
                convolution(x.astype(of), k.astype(of))))}, (x, kernel))}
        for what, (these, given) in cases.items():
            results = [np.asarray(way(*given), np.float32) for way in these.values()]
            close = 0.03 if what == "convolution" else 1e-4
            for other in results[1:]:
                np.testing.assert_allclose(other, results[0], atol=close * np.abs(results[0]).max())
            times = measure({name: lambda way=way: jax.block_until_ready(way(*given)) for name, way in these.items()},
                            4 * repeats)
            found[what][f"{batch}x{side}x{side}x{channels}"] = {name: of["least"] for name, of in times.items()}
    return found


def work():
    """What a process of `options` does: runs the case that a line of its input names, and says that it is done."""
    ready = {}
    for line in sys.stdin:
        stage, what = line.split()
        if (stage, what) not in ready:
            net = ours_of(stage)
            ready[stage, what] = net.train(net.stage.config.train.batch_size) if what == "train" else net.forward(16)
        ready[stage, what]()
        print("done", flush=True)


def options(repeats):
    """{stage: {case: {options: seconds}}}."""
    started = {name: subprocess.Popen(
        [sys.executable, "-m", "experiments.speed.forms", "--work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "XLA_FLAGS": flags}) for name, flags in OPTIONS.items()}

    def ask(process, case):
        print(case, file=process.stdin, flush=True)
        if process.stdout.readline() != "done\n":
            raise RuntimeError(f"a process ended with {process.wait()}")

    found = {}
    for stage in STAGES:
        found[stage] = {}
        for what in ("train", "forward"):
            times = measure({name: lambda process=process: ask(process, f"{stage} {what}")
                             for name, process in started.items()}, repeats)
            found[stage][what] = {name: of["least"] for name, of in times.items()}
            print(stage, what, found[stage][what], flush=True)
    for process in started.values():
        process.stdin.close()
        process.wait()
    return found


PARTS = {"forms": forms, "options": options}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: both")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work()
    if args.out is None:
        parser.error("--out must be given")
    result = {**about(), "repeats": args.repeats}
    for part in args.parts:
        result[part] = PARTS[part](args.repeats)
        write_json(args.out, result)


if __name__ == "__main__":
    main()

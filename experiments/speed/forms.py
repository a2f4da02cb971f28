"""Forms of the same computation and options of the compiler, on the CPU: why `cdm` has those that it has.

    pip install '.[reference]'
    python -m experiments.speed.forms --parts forms --out experiments/speed/forms.json

All that is compared takes turns, as in `experiments.speed`; seconds are the least of `repeats`.

1. forms: group norm with SiLU, its sums over the pixels first (cdm.nn.norm) or over a group's channels and the pixels
   at once, forward and with its gradient; a 3x3 convolution of cdm.nn.convolution beside XLA's own, float32 and
   bfloat16, and its gradients; the same of a picture enlarged to twice its size; and the gradient of a kernel alone, by
   XLA, by nine matrix products of shifted pictures, and by one of patches. Shapes are those that the demo's networks
   are trained on, the ends of networks, and large pictures.
2. options: the demo's training steps, denoiser calls (16 pictures) and samplers (4 pictures, 20 steps of dpmpp_2m) in
   processes of their own that differ by XLA_FLAGS, JAX_NUM_CPU_DEVICES and GLIBC_TUNABLES.
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

from cdm import devices
from cdm.images.files import write_json
from cdm.nn import convolution
from cdm.nn.norm import GroupNorm, groups_of
from experiments.speed.ours import ours_of
from experiments.speed.turns import STAGES, about, measure

# Batch, side, channels, channels of a convolution's output.
SHAPES = ((16, 32, 32, 32), (16, 16, 64, 64), (16, 8, 128, 128), (4, 8, 128, 128), (1, 8, 128, 128), (8, 32, 48, 48),
          (8, 32, 24, 24), (8, 64, 16, 16), (1, 256, 64, 64), (1, 256, 16, 16), (16, 32, 32, 3), (8, 64, 6, 24))
# XLA_FLAGS, to which `import cdm` adds its own option where they do not say it, and cdm.devices another where they say
# what `import cdm` does, not the same in another order; devices; and GLIBC_TUNABLES.
_FUSION, _PAGES = "--xla_cpu_experimental_ynn_fusion_type=", "glibc.malloc.hugetlb="
OPTIONS = {"as cdm draws": ("", devices.cores(), f"{_PAGES}1"),
           "and XLA's own convolution": (f"{_FUSION}-individual_dot,-individual_convolution", devices.cores(),
                                         f"{_PAGES}1"),
           "as cdm trains": ("", 1, f"{_PAGES}1"),
           "and XLA's own default": (f"{_FUSION}+individual_convolution", 1, f"{_PAGES}1"),
           "and small pages": ("", 1, f"{_PAGES}0")}


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


def _shifted(x):
    """The nine pictures [B, H, W, C] that a kernel of 3x3 sees."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


def products(x, gradient):
    """The kernel's gradient, a matrix product a shift."""
    channels, outputs = x.shape[-1], gradient.shape[-1]
    flat = gradient.reshape(-1, outputs)
    return jnp.stack([part.reshape(-1, channels).T @ flat for part in _shifted(x)]).reshape(3, 3, channels, outputs)


def patches(x, gradient):
    """The same, one product of all patches."""
    channels, outputs = x.shape[-1], gradient.shape[-1]
    columns = jnp.concatenate(_shifted(x), -1).reshape(-1, 9 * channels)
    return (columns.T @ gradient.reshape(-1, outputs)).reshape(3, 3, channels, outputs)


def forms(repeats):
    """{what: {shape: {form: seconds}}}, every form of one thing found equal first."""
    random, norm = np.random.default_rng(0), GroupNorm()
    found = {}

    def xlas(function):
        def direct(*given):
            with convolution.plain():
                return function(*given)

        return jax.jit(direct)

    def of_kernel(x, gradient):
        kernel = jnp.zeros((3, 3, x.shape[-1], gradient.shape[-1]))
        return jax.linear_transpose(lambda k: convolution.convolve(x, k), kernel)(gradient)[0]

    def gradients(function):
        return lambda x, kernel, gradient: jax.vjp(function, x, kernel)[1](gradient)

    for batch, side, channels, outputs in SHAPES:
        x, larger, kernel, g, to_x = (jnp.asarray(random.standard_normal(shape, np.float32)) for shape in (
            (batch, side, side, channels), (batch, side // 2, side // 2, channels), (3, 3, channels, outputs),
            (batch, side, side, outputs), (batch, side, side, channels)))
        half = [v.astype(jnp.bfloat16) for v in (x, kernel)]
        params = norm.init(jax.random.key(0), x)
        ways = {"pixels first": lambda x: nn.silu(norm.apply(params, x)), "at once": lambda x: nn.silu(at_once(x))}
        convolve, enlarged = convolution.convolve, convolution.convolve_enlarged
        cases = {
            "group norm": {name: (jax.jit(way), x) for name, way in ways.items()},
            "group norm and gradient": {name: (jax.jit(lambda x, g, way=way: jax.vjp(way, x)[1](g)[0]), x, to_x)
                                        for name, way in ways.items()},
            "convolution": {"cdm": (jax.jit(convolve), x, kernel), "XLA": (xlas(convolve), x, kernel),
                            "XLA, bfloat16": (xlas(convolve), *half)},
            "gradients": {"cdm": (jax.jit(gradients(convolve)), x, kernel, g),
                          "XLA": (xlas(gradients(convolve)), x, kernel, g)},
            "enlarged": {"cdm": (jax.jit(enlarged), larger, kernel), "XLA": (xlas(enlarged), larger, kernel)},
            "enlarged, gradients": {"cdm": (jax.jit(gradients(enlarged)), larger, kernel, g),
                                    "XLA": (xlas(gradients(enlarged)), larger, kernel, g)},
            "kernel's gradient": {"XLA": (xlas(of_kernel), x, g), "products": (jax.jit(products), x, g),
                                  "patches": (jax.jit(patches), x, g)}}
        for what, these in cases.items():
            results = [jax.tree.leaves(way(*given)) for way, *given in these.values()]
            for other in results[1:]:
                for here, there in zip(other, results[0]):
                    close = (0.03 if here.dtype == jnp.bfloat16 else 1e-4) * jnp.abs(there).max()
                    np.testing.assert_allclose(np.float32(here), there, atol=close)
            times = measure({name: lambda way=way, given=given: jax.block_until_ready(way(*given))
                             for name, (way, *given) in these.items()}, 4 * repeats)
            shape = f"{batch}x{side}x{side}x{channels}" + (f" to {outputs}" if outputs != channels else "")
            found.setdefault(what, {})[shape] = {name: of["least"] for name, of in times.items()}
            print(what, shape, found[what][shape], flush=True)
    return found


def work():
    """What a process of `options` does: runs the case that a line of its input names, and says that it is done."""
    ready = {}
    for line in sys.stdin:
        stage, what = line.split()
        if (stage, what) not in ready:
            net = ours_of(stage)
            size, count = net.stage.config.train.batch_size, len(jax.devices())
            start = {"train": lambda net: net.train(size, jax.devices()[: 1 if size % count else count]),
                     "forward": lambda net: net.forward(16), "sampler": lambda net: net.sampler(4, "dpmpp_2m", 20)}
            ready[stage, what] = start[what](net)
        ready[stage, what]()
        print("done", flush=True)


def options(repeats):
    """{stage: {case: {options: seconds}}}."""
    started = {name: subprocess.Popen(
        [sys.executable, "-m", "experiments.speed.forms", "--work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "XLA_FLAGS": flags, "JAX_NUM_CPU_DEVICES": str(count),
                        "GLIBC_TUNABLES": tunables})
        for name, (flags, count, tunables) in OPTIONS.items()}

    def ask(process, case):
        print(case, file=process.stdin, flush=True)
        if process.stdout.readline() != "done\n":
            raise RuntimeError(f"a process ended with {process.wait()}")

    found = {}
    for stage in STAGES:
        found[stage] = {}
        for what in ("train", "forward", "sampler"):
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

"""Programs for a GPU or TPU that is not there: compiled by the chip's own compiler, and read.

    pip install . 'jax[cuda12]'     # or 'jax[tpu]', of the version that is there
    python -m experiments.speed.compiled --chip h100 --out compiled.json

XLA compiles for a chip by its description alone, on any machine with Linux and an x86 processor. What it makes is read
as `experiments.speed.hlo` tells: how many operations the chip has to start, which bytes they read and write, how much
memory is taken at once. What is not there is what only the chip can tell: which of several kernels for a product is the
fastest, and time. So `estimate` is no measurement: the share of the chip's matrix rate that is left when products run
at that rate, everything else moves its bytes at the rate of the memory (both of the datasheet; between devices at none)
and one waits for the other; to start an operation takes no time in it. A cache that keeps what one operation hands to
the next makes it too low. For a TPU, whose compiler writes down how many cycles it expects of each operation,
`expected` is the share of the matrix rate by these, the rate being that of a product (8192 x 8192) by the same count.
"""

import argparse
import dataclasses
import os
import pathlib
import re

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks the network for the machine that it is on
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # of a chip's users there is one, of a compiler's any number
# Which of its kernels multiply fastest XLA finds out on the chip, and without one Triton's may not compile.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_triton_gemm=false"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding  # noqa: E402

from cdm.cascade import _arguments, _kind, _plan, _program  # noqa: E402
from cdm.devices import mesh as local_mesh  # noqa: E402
from cdm.images.files import write_json  # noqa: E402
from cdm.nn import convolution  # noqa: E402
from cdm.settings import settings_of  # noqa: E402
from cdm.training import speed  # noqa: E402
from experiments.speed import hlo  # noqa: E402
from experiments.speed.ours import ours_of  # noqa: E402

# The papers' networks, and two of the package's that were trained on a GPU (docs/training.md), with the batch of a
# training step and of a sampler.
STAGES = {"imagenet/base_32": (128, 16), "imagenet/sr_64": (64, 16), "imagenet/sr_256": (16, 4),
          "sr3/faces_64": (128, 16), "demo/base_32_wide": (256, 16), "photo/x4_bicubic": (64, 16)}
# As XLA describes the H100 SXM to itself (its GpuTargetConfigProto).
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass
class Chip:
    """A chip by its datasheet: bfloat16 FLOP/s, bytes/s and bytes of its memory."""

    platform: str
    rate: float
    bandwidth: float
    memory: float
    topology: str = ""  # as libtpu names it, of four chips

    def devices(self, count):
        """So many devices that programs can be compiled for, and nothing else. ValueError if there can not be as many
        or the chip's compiler is not installed."""
        extra, most = ("cuda12", 64) if self.platform == "gpu" else ("tpu", 4)
        if not 1 <= count <= most:
            raise ValueError(f"`--devices` (={count}) must lie between 1 and {most}")
        try:
            if self.platform == "gpu":
                found = topologies.get_topology_desc(platform="cuda", target_config=H100, topology=f"1x1x{count}")
            else:
                found = topologies.get_topology_desc(self.topology, "tpu")
        except (NotImplementedError, RuntimeError) as e:
            raise ValueError(f"`--chip` must have its compiler installed, pip install 'jax[{extra}]': {e}") from e
        return list(found.devices[:count])


CHIPS = {"h100": Chip("gpu", 989e12, 3.35e12, 80e9), "v5p": Chip("tpu", 459e12, 2.765e12, 95e9, "v5p:2x2x1"),
         "v6e": Chip("tpu", 918e12, 1.64e12, 32e9, "v6e:2x2")}


def training(net, batch, devices):
    """The training step, lowered for these devices."""
    step, _, partition, state = net.step_of(batch, devices)
    given = {**net.stage.batch(batch), "stop": jax.ShapeDtypeStruct((batch,), bool)}
    return step.lower(state, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=partition.spread), given))


def sampling(net, batch, devices, steps):
    """The sampler's program, lowered for the first of the devices."""
    stage = net.stage
    stage.params = jax.eval_shape(stage.init)
    settings = settings_of(stage, sampler="dpmpp_2m", steps=steps, guidance=0.0)
    label = np.zeros(batch, np.int32)
    small = np.zeros((batch, stage.lowres_size, stage.lowres_size, 3), np.float32) if stage.lowres_size else None
    arguments = _arguments(local_mesh(), stage, settings, 0, label, label, small, _plan(stage, settings))
    over = Mesh(np.array(devices[:1]), ("data",))
    given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype,
                                                           sharding=NamedSharding(over, PartitionSpec())),
                         ((stage.params, None), *arguments))
    return _program(over, stage, _kind(settings, None)).lower(*given)


def cycles_of_product(chip):
    """How many FLOPs of a matrix product (8192 x 8192, bfloat16) a TPU's compiler expects of a cycle."""
    one = jax.ShapeDtypeStruct((8192, 8192), jnp.bfloat16, sharding=SingleDeviceSharding(chip.devices(1)[0]))
    text = jax.jit(jnp.matmul).lower(one, one).compile().as_text()
    return 2 * 8192**3 / sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))


def told(text, chip, flops, per_cycle, steps=None):
    """What is to be told of a program of so many FLOPs, by its text; its main loop turns `steps` times."""
    kinds = hlo.counted(hlo.computations(text), steps=steps)
    operations, moved, cycles = (sum(one[key] for one in kinds.values()) for key in ("operations", "bytes", "cycles"))
    if not cycles:
        kinds = {which: {key: one[key] for key in ("operations", "bytes")} for which, one in kinds.items()}
    least = flops / chip.rate
    others = sum(one["bytes"] for which, one in kinds.items() if which not in ("products", "links"))
    return {"operations": operations, "bytes": moved, "kinds": kinds,
            "estimate": least / (least + others / chip.bandwidth),
            "expected": flops / cycles / per_cycle if cycles else None}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--chip", choices=CHIPS, required=True)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=tuple(STAGES))
    parser.add_argument("--cases", nargs="+", choices=("train", "sample"), default=("train", "sample"))
    parser.add_argument("--devices", type=int, default=1, help="of a training step, with a batch each")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the programs' texts")
    args, overrides = parser.parse_known_args()
    chip = CHIPS[args.chip]
    try:
        devices = chip.devices(args.devices)
    except ValueError as e:
        parser.error(str(e))
    per_cycle = cycles_of_product(chip) if chip.platform == "tpu" else None
    result = {"jax": jax.__version__, "chip": args.chip, **dataclasses.asdict(chip), "devices": args.devices,
              "overrides": overrides, "rows": []}
    for name in args.stages:
        for case in args.cases:
            net = ours_of(name, ["--config.dtype=bfloat16", *overrides], drawn=False)
            batch, steps = STAGES[name][case == "sample"], 20 if case == "sample" else None
            with convolution.traced_for(chip.platform):
                lowered = (training(net, args.devices * batch, devices) if case == "train" else
                           sampling(net, batch, devices, steps))
            compiled = lowered.compile()
            text, memory = compiled.as_text(), compiled.memory_analysis()
            flops = batch * (steps * net.flops if steps else speed.flops_per_image(net.stage))
            taken = memory.argument_size_in_bytes + memory.temp_size_in_bytes
            row = {"stage": name, "case": case, "batch": batch, "steps": steps, "parameters": net.parameters,
                   "flops": flops, "memory": {"arguments": memory.argument_size_in_bytes,
                                              "donated": memory.alias_size_in_bytes,
                                              "temporary": memory.temp_size_in_bytes, "fits": taken <= chip.memory},
                   **told(text, chip, flops, per_cycle, steps)}
            result["rows"].append(row)
            write_json(args.out, result)
            print({key: row[key] for key in ("stage", "case", "batch", "operations", "bytes", "estimate", "expected",
                                             "memory")}, flush=True)
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{args.chip}_{name.replace('/', '_')}_{case}.hlo").write_text(text)


if __name__ == "__main__":
    main()

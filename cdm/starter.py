"""`cdm init`: the configs of a whole cascade, sized for one's pictures and one's device.

What is chosen, and by what rule: widths and batch by the device's memory, the largest that fit; how long by the number
of pictures, as few can be seen only so often before they are remembered; crops for stages above 64 pixels; and
`diffusion.data_std` is measured, the deviation of what the low-res picture leaves to be drawn.
"""

import itertools
import pathlib

import jax
import numpy as np

from cdm.config import base_stage, sr_stage
from cdm.data.reading import evenly, read_good
from cdm.data.sources import open_source
from cdm.describe import describe
from cdm.images.files import new_folder
from cdm.images.resize import resize, to_float

SAMPLE = 64  # pictures that data_std is measured on

# On an accelerator: (channels of the base stage, of the others), largest first, and the share of memory to be used.
WIDTHS, SHARE = ((192, 128), (128, 96), (96, 64), (64, 32)), 0.7
LEAST_BATCH = 32  # on a device; a narrower network is taken before a smaller batch


def write_configs(data, sizes, out):
    """Write a config a stage into the new folder `out`, for pictures of the source `data` and a cascade of `sizes`,
    rising: the base stage's and then each further one's. Returns the files."""
    _check(sizes)
    source = open_source(data)
    out = pathlib.Path(out)
    device = jax.local_devices()[0]
    names = [f"base_{sizes[0]}", *(f"sr_{size}" for size in sizes[1:])]
    files = []
    with new_folder(out) as partial:
        for name, low, size in zip(names, (None, *sizes), sizes):
            values = _values(source, data, low, size, device)
            config = base_stage(name, size) if low is None else sr_stage(name, low, size)
            about = _fit(config, values, source.classes, device)
            (partial / f"{name}.py").write_text(_text(name, low, size, values, about, source, device, out))
            files.append(out / f"{name}.py")
    return files


def _check(sizes):
    if not sizes or any(size < 8 or size % 4 for size in sizes):
        raise ValueError(f"`sizes` (={','.join(map(str, sizes))}) must be multiples of 4, of at least 8")
    for low, size in itertools.pairwise(sizes):
        if size <= low or size % low:
            raise ValueError(f"`sizes` (={','.join(map(str, sizes))}) must rise, each dividing the next")


def _values(source, data, low, size, device):
    """What the config of a stage sets, by dotted name, but for widths and batch."""
    count, cpu, base = len(source), device.platform == "cpu", low is None
    # A picture is seen 400 times, a base stage's in full and a further stage's in many crops and noises; two CPU cores
    # do a hundred thousand in an hour or two.
    images = min(max(400 * count, 20_000), 100_000 if cpu else 200_000_000)
    of_class = np.bincount(source.labels, minlength=1) if source.classes else np.ones(1)
    values = {"data.source": str(data)}
    if of_class.max() > 3 * max(of_class.min(), 1):
        values["data.balance"] = True
    if size > 64 and not base:
        scale = size // low
        crop = max(64 if cpu else 128, 4 * scale) // (4 * scale) * 4 * scale
        if crop < size:
            values["data.crop"] = crop
    values["model.multipliers"] = (1, 2, 4) if base else (1, 2, 3)
    values["model.blocks"] = 2 if base or not cpu else 1
    values["model.attention"] = (size // 4,) if base else ()
    if cpu:
        values["model.resample"] = "between"
    if base and count < 50_000 and not cpu:
        values["model.dropout"] = 0.1
    if not base:
        values["diffusion.residual"], values["diffusion.data_std"] = True, _data_std(source, low, size)
        values["augment.max_level"] = 0.5
        if cpu:  # a small network that says v or eps leaves grain (docs/evaluation.md)
            values["diffusion.target"] = "x0"
    values["train.images"] = images
    values["train.learning_rate"] = 6e-4 if cpu else 2e-4
    values["train.warmup"] = values["train.ema_half_life"] = images // 30
    values["train.decay"] = "cosine"
    values["checkpoint.every"] = values["checkpoint.snapshots"] = images // 20
    values["log.every"], values["log.grid"] = images // 200, images // 10
    values["sample.sampler"], values["sample.steps"] = "dpmpp_2m", 20 if base else 4 if cpu else 10
    if base and len(source.classes) > 1:
        values["sample.guidance"] = 1.0
    if not base:
        values["sample.aug_level"] = 0.0 if cpu else 0.1
    return values


def _data_std(source, low, size):
    """Root mean square of x0 - up(down(x0)), over pictures taken evenly from the source."""
    pictures = (to_float(read_good(source, int(record), size)[1]) for record in evenly(len(source), SAMPLE))
    mean = np.mean([np.mean((x0 - resize(resize(x0, low), size)) ** 2) for x0 in pictures])
    return float(f"{max(mean**0.5, 0.01):.2g}")


def _fit(config, values, classes, device):
    """Add widths and batch to `values`: the largest that fit the device; returns `describe` of the result."""
    base = "augment" not in config
    if device.platform == "cpu":
        values["model.channels"] = 32 if base else 24 if config.size <= 64 else 16
        values["train.batch_size"] = 16 if base else 8
        return describe(_set(config, values), classes)
    memory = SHARE * (device.memory_stats() or {}).get("bytes_limit", 16e9)
    for width in WIDTHS:
        values["model.channels"] = width[0 if base else 1]
        about = describe(_set(config, values), classes)
        room = (memory - about["memory"]["train_state"]) / about["memory"]["activations_per_image"]
        if room >= LEAST_BATCH:
            break
    batch = 2 ** int(np.log2(np.clip(room, 1, 256)))
    values["train.batch_size"] = batch * len(jax.devices())
    return describe(_set(config, values), classes)


def _set(config, values):
    """The config with the values set."""
    with config.unlocked():
        for name, value in values.items():
            *path, last = name.split(".")
            node = config
            for part in path:
                node = node[part]
            node[last] = value
    return config


def _text(name, low, size, values, about, source, device, out):
    classes = f" of {len(source.classes)} classes" if source.classes else ""
    kind = f"A base stage at {size}x{size}" if low is None else f"Super-resolution from {low}x{low} to {size}x{size}"
    make = f'base_stage("{name}", {size})' if low is None else f'sr_stage("{name}", {low}, {size})'
    settings = "\n".join(f"    config.{key} = {_literal(value)}" for key, value in values.items())
    cost = f"{about['params'] / 1e6:.1f} M parameters, {about['flops_per_image']['train'] / 1e9:.2f} GFLOP an image"
    return f'''"""{kind}, for {len(source)} pictures{classes}.

    cdm train --config={out / name}.py --workdir=runs/{name}

{cost} of training. Written by `cdm init` for the device "{device.device_kind}"; change it at will.
"""

from cdm.config import {"base" if low is None else "sr"}_stage


def get_config():
    config = {make}
{settings}
    return config
'''


def _literal(value):
    return f"{value:_}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else repr(value)

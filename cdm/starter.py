"""`cdm init`: the configs of a whole cascade, sized for one's pictures and one's device.

What is chosen by rule, and the rule: widths and batch by the device's memory, from the largest that fits; how long by the
number of pictures, as few can be seen only so often before they are remembered; crops for stages above 64 pixels; and
`diffusion.data_std` measured, the deviation of what the low-res picture leaves to be drawn.
"""

import itertools
import pathlib

import jax
import numpy as np

from cdm.config import base_stage, sr_stage
from cdm.data.sources import open_source, read_square
from cdm.describe import describe
from cdm.images.files import new_folder
from cdm.images.resize import resize, to_float

SAMPLE = 64  # pictures that data_std is measured on

# On an accelerator: (channels of the base stage, of the others), largest first, and the share of memory that may be used.
WIDTHS, SHARE = ((192, 128), (128, 96), (96, 64), (64, 32)), 0.7


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
            about = _fit(config, values, device)
            (partial / f"{name}.py").write_text(_text(name, low, size, values, about, source, data, device, out))
            files.append(out / f"{name}.py")
    return files


def _check(sizes):
    if not sizes or any(size < 8 or size % 4 for size in sizes):
        raise ValueError(f"`sizes` (={','.join(map(str, sizes))}) must be multiples of 4, of at least 8")
    for low, size in itertools.pairwise(sizes):
        if size <= low or size % low:
            raise ValueError(f"`sizes` (={','.join(map(str, sizes))}) must rise, each dividing the next")


def _values(source, data, low, size, device):
    """What the config of a stage sets, by dotted name, but for the widths."""
    count, cpu = len(source), device.platform == "cpu"
    # A base stage sees each picture about 400 times at most, and a picture has many more crops than views.
    images = min(count * 400, 200_000_000) if low is None else min(count * 400, 50_000_000)
    images = max(min(images, 100_000 if cpu else images), 20_000)
    classes = np.bincount(source.labels, minlength=1)
    values = {"data.source": str(data)}
    if len(source.classes) > 1 and classes.max() > 3 * max(classes.min(), 1):
        values["data.balance"] = True
    values["model.multipliers"] = (1, 2, 4) if low is None else (1, 2, 3)
    values["model.blocks"] = 2 if low is None or not cpu else 1
    values["model.attention"] = (size // 4,) if low is None else ()
    if cpu:
        values["model.resample"] = "between"
    if low is None and count < 50_000 and not cpu:
        values["model.dropout"] = 0.1
    if low is not None:
        side = max(_round(max(size // 4, 32), 4 * size // low), 4 * size // low)
        if size > 64 and side < size:
            values["data.crop"] = side if cpu else min(max(side, 128), size)
        values["diffusion.residual"] = True
        values["diffusion.data_std"] = _data_std(source, low, size)
        values["augment.max_level"] = 0.5
    values["train.images"] = images
    values["train.learning_rate"] = 6e-4 if cpu else 2e-4
    values["train.warmup"] = images // 30
    values["train.decay"] = "cosine"
    values["train.ema_half_life"] = images // 30
    values["checkpoint.every"] = values["checkpoint.snapshots"] = images // 20
    values["log.every"], values["log.grid"] = max(images // 200, 1), images // 10
    values["sample.sampler"], values["sample.steps"] = "dpmpp_2m", 20 if low is None else 10
    if low is None and len(source.classes) > 1:
        values["sample.guidance"] = 1.0
    if low is not None:
        values["sample.aug_level"] = 0.1
    return values


def _round(value, multiple):
    return value // multiple * multiple


def _data_std(source, low, size):
    """Root mean square of x0 - up(down(x0)), over pictures evenly drawn from the source; of one that can not be read,
    its neighbour."""
    total, count = 0.0, 0
    for record in np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(int)):
        try:
            x0 = to_float(read_square(source, int(record), size))
        except ValueError:
            continue
        total += float(np.mean((x0 - resize(resize(x0, low), size)) ** 2))
        count += 1
    if not count:
        raise ValueError(f"`data` must hold pictures that can be read; of {SAMPLE} none could")
    return float(f"{max((total / count) ** 0.5, 0.01):.2g}")


def _fit(config, values, device):
    """Add widths and batch to `values`: the largest that fit the device; returns `describe` of the result."""
    base = "augment" not in config
    if device.platform == "cpu":
        values["model.channels"], values["train.batch_size"] = (32, 16) if base else (24 if config.size <= 64 else 16, 8)
        return describe(_set(config, values))
    memory = SHARE * (device.memory_stats() or {}).get("bytes_limit", 16e9)
    devices = len(jax.devices())
    for wide, (channels, batch) in itertools.product(WIDTHS, ((256, 256), (128, 128), (64, 64), (32, 32), (16, 16))):
        values["model.channels"] = wide[0] if base else wide[1]
        values["train.batch_size"] = batch * devices if batch * devices <= 2048 else 2048
        about = describe(_set(config, values))
        # bfloat16 halves what `describe` counts in float32.
        need = about["memory"]["train_state"] + batch * about["memory"]["activations_per_image"] / 2
        if need <= memory and batch >= 64 or (wide, batch) == (WIDTHS[-1], 16):
            return about
    return about


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


def _text(name, low, size, values, about, source, data, device, out):
    kind = f"a base stage at {size}x{size}" if low is None else f"super-resolution from {low}x{low} to {size}x{size}"
    order = ["data.", "model.", "diffusion.", "augment.", "train.", "checkpoint.", "log.", "sample."]
    lines = [f"    config.{key} = {_literal(value)}" for prefix in order
             for key, value in values.items() if key.startswith(prefix)]
    make = f'base_stage("{name}", {size})' if low is None else f'sr_stage("{name}", {low}, {size})'
    return f'''"""{kind[0].upper()}{kind[1:]}, for {len(source)} pictures of {len(source.classes)} classes and the device "{device.device_kind}".

    cdm train --config={out / name}.py --workdir=runs/{name}

{about["params"] / 1e6:.1f} M parameters, {about["flops_per_image"]["train"] / 1e9:.2f} GFLOP a training image. Written by `cdm init`, to be changed at will.
"""

from cdm.config import {"base" if low is None else "sr"}_stage


def get_config():
    config = {make}
{chr(10).join(lines)}
    return config
'''


def _literal(value):
    return f"{value:_}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else repr(value)

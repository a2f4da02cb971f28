"""ADM's checkpoints as stages: base models and upsamplers of guided-diffusion (Dhariwal and Nichol 2021).

A checkpoint is a state dict, and what its tensors mean is in the flags of guided-diffusion's scripts. The network is
cdm.nn's with these options:

    embedding       of k, the entry of a discrete table of 1000 betas, linear or cosine; not of logSNR
    heads           of 64 channels, as many as there are room for, or four
    resampling      inside residual blocks, or (--resblock_updown False) between them
    output          eps, and v of the learned variance
    upsamplers      the low-res image enters bilinearly upsampled, as it is: trained without augmentation

The flag --use_new_attention_order tells how the rows of a qkv matrix are ordered: as q, k, v of all heads, which is
ours, or, without it, as the heads with q, k, v each; then the rows are put in our order.

Ours has more parameters: a row of the null class, which the import leaves zero and nothing uses, as `class_dropout` is
0; and, in an upsampler, an embedding of the augmentation's level. That starts as the time's but answers zero, so
that fine-tuning with augmentation starts from the very function that was imported.
"""

import dataclasses
import functools
import pathlib
import re
import shlex
from typing import Callable, NamedTuple

import jax
import numpy as np

from cdm.config import base_stage, sr_stage
from cdm.images.files import sha256
from cdm.interop import foreign
from cdm.stage import Stage, flatten, unflatten

GROUPS = 32  # of ADM's group norm, at any width


class Flags(NamedTuple):
    """guided-diffusion's, with its defaults; of an upsampler `large_size` and `small_size` instead of `image_size`."""

    image_size: int = 64
    large_size: int = 0
    small_size: int = 0
    num_channels: int = 128
    num_res_blocks: int = 2
    channel_mult: str = ""
    num_heads: int = 4
    num_heads_upsample: int = -1
    num_head_channels: int = -1
    attention_resolutions: str = "16,8"
    dropout: float = 0.0
    class_cond: bool = False
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    learn_sigma: bool = False
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    predict_xstart: bool = False
    rescale_timesteps: bool = False
    # Of training and of its arithmetic: they make no other network.
    use_fp16: bool = False
    use_checkpoint: bool = False
    use_kl: bool = False
    rescale_learned_sigmas: bool = False


_FLAGS = Flags(attention_resolutions="32,16,8", class_cond=True, learn_sigma=True, resblock_updown=True)
PUBLISHED = {  # by the names of the published files
    "64x64_diffusion": _FLAGS._replace(image_size=64, num_channels=192, num_res_blocks=3, num_head_channels=64,
                                       noise_schedule="cosine", dropout=0.1, use_new_attention_order=True),
    "128x128_diffusion": _FLAGS._replace(image_size=128, num_channels=256, num_heads=4),
    "256x256_diffusion": _FLAGS._replace(image_size=256, num_channels=256, num_head_channels=64),
    "256x256_diffusion_uncond": _FLAGS._replace(image_size=256, num_channels=256, num_head_channels=64,
                                                class_cond=False),
    "512x512_diffusion": _FLAGS._replace(image_size=512, num_channels=256, num_head_channels=64),
    "64_256_upsampler": _FLAGS._replace(large_size=256, small_size=64, num_channels=192, num_heads=4),
    "128_512_upsampler": _FLAGS._replace(large_size=512, small_size=128, num_channels=192, num_head_channels=64,
                                         attention_resolutions="32,16"),
}
MULTIPLIERS = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4), 512: (0.5, 1, 1, 2, 2, 4, 4)}
UPSAMPLER_MULTIPLIERS = {**MULTIPLIERS, 512: (1, 1, 2, 2, 4, 4)}


def _need(ok, name, value, rule):
    if not ok:
        raise ValueError(f"`flags`: {name} (={value}) must {rule}")


def _value(name, text):
    kind = Flags.__annotations__[name]
    if kind is bool:
        _need(text.lower() in ("true", "false"), name, text, "be True or False")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as e:
        raise ValueError(f"`flags`: {name} (={text}) must be a number") from e


def parse_flags(text):
    """The Flags in a text such as "--image_size 64 --class_cond True", or of the published file of this name."""
    if text in PUBLISHED:
        return PUBLISHED[text]
    words, values = shlex.split(text.replace("=", " ")), {}
    if len(words) % 2 or not all(name.startswith("--") for name in words[::2]):
        raise ValueError(f"`flags` (={text}) must be guided-diffusion's, \"--image_size 64 …\", or one of "
                         f"{', '.join(PUBLISHED)}")
    for name, value in zip(words[::2], words[1::2]):
        name = name.removeprefix("--")
        _need(name in Flags._fields, name, value, f"be one of a model's: {', '.join(Flags._fields)}")
        values[name] = _value(name, value)
    return Flags(**values)


def _numbers(name, text, kind):
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as e:
        raise ValueError(f"`flags`: {name} (={text}) must be numbers with commas between them") from e


def config_of(flags):
    """The config of the stage that these Flags describe."""
    up, steps = bool(flags.large_size or flags.small_size), flags.diffusion_steps
    name, size = ("large_size", flags.large_size) if up else ("image_size", flags.image_size)
    _need(not up or 0 < flags.small_size < size, "small_size", flags.small_size, f"be below large_size (={size})")
    known = UPSAMPLER_MULTIPLIERS if up else MULTIPLIERS
    _need(flags.channel_mult or size in known, name, size, f"be one of {', '.join(map(str, known))}")
    multipliers = _numbers("channel_mult", flags.channel_mult, float) if flags.channel_mult else known[size]
    widths = [multiplier * flags.num_channels for multiplier in multipliers]
    # cdm.nn has as many groups as ADM where a group has at least four channels.
    _need(all(width >= 4 * GROUPS and width % GROUPS == 0 for width in widths), "num_channels", flags.num_channels,
          f"make all widths multiples of {GROUPS} from {4 * GROUPS} on: they are "
          f"{', '.join(f'{width:g}' for width in widths)}")
    _need(flags.num_heads_upsample in (-1, flags.num_heads), "num_heads_upsample", flags.num_heads_upsample,
          "be num_heads")
    _need(flags.noise_schedule in ("linear", "cosine"), "noise_schedule", flags.noise_schedule, "be linear or cosine")
    _need(steps >= 2, "diffusion_steps", steps, "be at least 2")
    _need(not flags.rescale_timesteps or steps == 1000, "rescale_timesteps", True,
          "be False unless diffusion_steps is 1000")
    sides = _numbers("attention_resolutions", flags.attention_resolutions, int)
    levels = [size // 2**level for level in range(len(multipliers))]
    attention = tuple(side for side in levels if side in sides)
    _need(attention and all(side > 0 and size % side == 0 for side in sides), "attention_resolutions",
          flags.attention_resolutions, f"divide {size} and be of the network: {', '.join(map(str, levels))}")

    config = (sr_stage(f"sr_{size}", flags.small_size, size) if up else base_stage(f"base_{size}", size)).unlock()
    config.data.source, config.data.square, config.data.flip = "tfds:imagenet2012", "adm", True
    config.model.channels = flags.num_channels
    config.model.multipliers = multipliers
    config.model.blocks = flags.num_res_blocks
    config.model.attention = attention
    config.model.heads = flags.num_heads
    config.model.head_channels = max(flags.num_head_channels, 0)
    config.model.dropout = flags.dropout
    config.model.embedding = "adaptive" if flags.use_scale_shift_norm else "additive"
    config.model.resample = "block" if flags.resblock_updown else "between"
    config.model.level = "timestep"
    config.diffusion.target = "x0" if flags.predict_xstart else "eps"
    config.diffusion.levels = "table"
    config.diffusion.variance = "learned" if flags.learn_sigma else "fixed"
    schedule = {"name": "discrete_cosine", "timesteps": steps}
    if flags.noise_schedule == "linear":
        scale = 1000 / steps
        schedule = {"name": "linear_beta", "timesteps": steps, "beta_start": scale * 1e-4, "beta_end": scale * 0.02}
    config.diffusion.schedule = schedule
    config.train.class_dropout = 0.0
    config.sample.sampler, config.sample.variance, config.sample.steps = "ancestral", "large", min(250, steps)
    if up:
        config.model.lowres_resize = "bilinear"
        config.augment.max_level = config.sample.aug_level = 0.0
    return config.lock()


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """One of ours, made from ADM's tensor when NumPy asks for it: the checkpoint is not in memory beside its stage."""

    shape: tuple
    tensor: foreign.Tensor
    turn: Callable

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.turn(self.tensor.array()), dtype)


def tensor_of(name, shape):
    """(name, shape) of ADM's tensor that the parameter of cdm.nn called `name` is made of."""
    path, leaf = name.replace("aug_embed", "time_embed").rsplit("/", 1)
    part = re.sub(r"_(?=\d)", ".", path).replace("/", ".")
    if re.fullmatch(r"(in|out)put_blocks\.\d+\.\d+", part) and part != "input_blocks.0.0":  # between the blocks
        part += ".op" if part.startswith("in") else ".conv"
    if leaf == "embedding":
        shape = (shape[0] - 1, shape[1])
    elif leaf == "kernel":
        shape = (shape[-1], shape[-2], *shape[:-2], *(1,) * part.endswith((".qkv", ".proj_out")))
    return f"{part}.{'bias' if leaf == 'bias' else 'weight'}", shape


def sources(stage):
    """{parameter: (its shape, ADM's tensor, the tensor's shape)} of a Stage of an ADM network."""
    leaves = flatten(jax.eval_shape(stage.init))
    return {name: (leaf.shape, *tensor_of(name, leaf.shape)) for name, leaf in leaves.items()}


def _turned(name, shape, flags, value):
    """Our parameter of this name and shape from ADM's array."""
    if "/qkv/" in name and not flags.use_new_attention_order:
        channels = len(value) // 3
        heads = channels // flags.num_head_channels if flags.num_head_channels > 0 else flags.num_heads
        rows = value.reshape(heads, 3, channels // heads, -1)
        value = rows.swapaxes(0, 1).reshape(value.shape)
    if name.startswith("aug_embed_2"):
        value = np.zeros_like(value)
    if name.endswith("/embedding"):
        value = np.concatenate([value, np.zeros_like(value[:1])])
    elif name.endswith("/kernel"):  # [O, I, ...] to [..., I, O]
        value = np.moveaxis(value.reshape(*value.shape[:2], *shape[:-2]), (1, 0), (-2, -1))
    return value


def import_stage(path, out, flags=None):
    """Write the stage folder `out`, which must not exist yet, of the checkpoint at `path`; returns the Stage. `flags` is
    a text for `parse_flags`, by default the file's name. A checkpoint must have the tensors of its flags' network, all
    of them and no other.
    """
    path = pathlib.Path(path)
    flags = parse_flags(path.stem if flags is None else flags)
    config, tensors = config_of(flags), foreign.state_dict(path)
    classes = 0
    if flags.class_cond:
        classes = tensors["label_emb.weight"].shape[0] if "label_emb.weight" in tensors else 1000
    stage = Stage(config, [str(i) for i in range(classes)])
    parameters = sources(stage)
    shapes = {tensor: shape for _, tensor, shape in parameters.values()}
    for name in [*shapes, *tensors]:
        found, right = tensors[name].shape if name in tensors else "missing", shapes.get(name, "none")
        if found != right:
            raise ValueError(f"`checkpoint` (={path}) must be of its flags' network: {name} is {found}, they want "
                             f"{right}")
    stage.params = unflatten({
        name: _Parameter(shape, tensors[tensor], functools.partial(_turned, name, shape, flags))
        for name, (shape, tensor, _) in parameters.items()})
    given = {name: value for name, value in flags._asdict().items() if value != Flags._field_defaults[name]}
    stage.facts = {"imported": {"file": path.name, "sha256": sha256(path), "flags": given}}
    stage.save(out)
    return stage

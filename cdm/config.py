"""What a stage config may hold, its defaults, and what makes one valid.

A config file under configs/ has `get_config()` that starts from `base_stage` or `sr_stage` and changes what it needs.
Configs are locked: a name that is not here is an error. Counts of progress (`train.images`, `checkpoint.every`,
`log.*`, `train.warmup`, `train.ema_half_life`) are in images, never in steps.
"""

import numbers
import os
import re
import runpy

from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_flags import config_flags


SAMPLERS = ("ancestral", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "heun")
DEGRADATIONS = ("bicubic", "photo", "pairs")
WEIGHTS = ("uniform", "min_snr", "truncated_snr", "edm", "sigmoid")
_BOUNDS = {"logsnr_min": -20.0, "logsnr_max": 20.0}
SCHEDULES = {
    "cosine": {**_BOUNDS, "shift": 0.0}, "flow": _BOUNDS, "edm": {**_BOUNDS, "mean": -1.2, "deviation": 1.2},
    "linear_beta": {"timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}, "discrete_cosine": {"timesteps": 4000}}


def base_stage(name, size):
    """Defaults of a base stage: class-conditional generation at `size` pixels."""
    config = ConfigDict()
    config.name = name  # part of every image's key: changing it changes the pictures
    config.size = size  # pixels of the stage's output
    config.dtype = "auto"  # compute: float32, bfloat16, or bfloat16 where the device is fast at it

    config.data = ConfigDict()
    config.data.source = "fluent_emoji"  # see cdm/data/sources.py
    config.data.square = "center"  # of a picture of another shape: center, random or adm
    config.data.flip = False  # random horizontal flips
    config.data.labels = True  # of a source that has them; False trains without classes all the same
    config.data.balance = False  # draw classes equally often instead of images
    config.data.crop = 0  # train on random crops of this side; 0 is the whole image
    config.data.cache = False  # keep decoded images in memory

    config.model = ConfigDict()
    config.model.channels = 64
    config.model.multipliers = (1, 2, 4)
    config.model.blocks = 2
    config.model.attention = (8,)  # resolutions
    config.model.heads = 4
    config.model.head_channels = 0  # of a head, as many heads as they make (ADM); 0: `heads`
    config.model.dropout = 0.0
    config.model.embedding = "adaptive"  # group norm's scale and shift, or "additive"
    config.model.level = "logsnr"  # what is embedded of the noise level, or the "timestep" of a discrete schedule
    config.model.resample = "block"  # inside residual blocks, or "between" them
    config.model.remat = ()  # resolutions whose blocks are computed again in the backward pass instead of kept
    config.model.skip_rescale = False  # residual sums times 1/sqrt(2) (SR3)

    config.diffusion = ConfigDict()
    config.diffusion.loss = "diffusion"  # or "regression": x0 from the low-res image alone, SR3's own baseline
    config.diffusion.target = "v"  # eps, x0 or v, of the standardised image; v with data_std is EDM's preconditioning
    config.diffusion.norm = 2  # of the error: squared, or 1, absolute (SR3)
    config.diffusion.weight = "uniform"  # by noise level: uniform, min_snr, truncated_snr, edm or sigmoid
    config.diffusion.weight_bias = -3.0  # b of the sigmoid
    config.diffusion.levels = "continuous"  # in training; of a discrete schedule also its "table", or SR3's "interval"
    config.diffusion.variance = "fixed"  # of ancestral steps, or "learned" by the hybrid loss (levels: table)
    config.diffusion.data_std = 1.0  # of the images, or of what `residual` leaves of them; 1 standardises nothing
    # A schedule's parameters are what its class takes: they are checked when it is made.
    config.diffusion.schedule = ConfigDict({"name": "cosine", **_BOUNDS})

    config.train = ConfigDict()
    config.train.images = 1_000_000
    config.train.batch_size = 32
    config.train.seed = 0
    config.train.init_from = ""  # a stage folder whose parameters training starts from; "" starts fresh
    config.train.teacher = ""  # a stage folder, to learn two steps of its sampling in one: see `cdm distill`
    config.train.teacher_guidance = 0.0  # w of the teacher's sampling
    config.train.learning_rate = 1e-4
    config.train.warmup = 10_000
    config.train.decay = "none"  # or "cosine", to 0 at train.images
    config.train.clip = 1.0  # of the gradient's norm; 0 is off
    config.train.class_dropout = 0.1  # the null class of classifier-free guidance
    config.train.ema_half_life = 50_000
    config.train.ema_sigmas = (0.05, 0.10)  # the power-function averages that snapshots keep for `export --ema-sigma`
    config.train.accumulate = 1  # parts a batch is computed in, one after the other
    config.train.max_skipped = 20  # batches in a row that are not finite before the run stops
    config.train.deterministic = False  # on a GPU: slower kernels that give the same bits every time

    # Of checkpoints the newest `keep` stay, and the first at or past every multiple of `keep_every` (0: none).
    config.checkpoint = ConfigDict({"every": 50_000, "keep": 2, "keep_every": 0, "snapshots": 50_000})
    config.log = ConfigDict({"every": 2_000, "grid": 50_000, "writers": ()})
    # Devices: batches are split over all of them, parameters over groups of `fsdp`; -1 is as many as there are.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1})
    # See cdm/settings.py. `interval`: logSNR between which guidance acts, () everywhere.
    config.sample = ConfigDict({"sampler": "ddim", "steps": 50, "guidance": 0.0, "grid": "time", "interval": (),
                                "threshold": "static", "eta": 0.0, "churn": 0.0, "variance": "small"})
    return config.lock()


def sr_stage(name, lowres_size, size):
    """Defaults of a super-resolution stage: from `lowres_size` pixels to `size`."""
    config = base_stage(name, size).unlock()
    config.lowres_size = lowres_size
    config.model.attention = ()  # convolutional throughout, for crops and windows of any size
    config.model.lowres_resize = "bicubic"  # of the low-res image to the size of the output, or "bilinear" (ADM)
    config.diffusion.residual = False  # model the difference from the upsampled low-res image
    config.data.lowres = ""  # the source of the low-res pictures of `degrade.kind` pairs, see cdm/data/pairs.py
    # How low-res pictures of training come of the others: bicubic; photo, by the ranges of cdm/images/degrade.py; or
    # not at all: pairs have pictures of their own.
    config.degrade = ConfigDict({"kind": "bicubic", "blur": (0.0, 1.0), "scale": (0.5, 1.2), "noise": (0.0, 15.0),
                                 "quality": (40.0, 100.0)})
    config.augment = ConfigDict()
    config.augment.schedule = ConfigDict({"name": "cosine", **_BOUNDS})
    config.augment.max_level = 1.0  # levels are drawn from U(0, max_level); 0 trains without noise
    config.augment.blur_probability = 0.0
    config.augment.blur_sigma = (0.4, 0.6)  # pixels of the low-res image
    config.sample.aug_level = 0.2
    config.sample.steps = 20
    return config.lock()


def load(path, overrides=()):
    """The validated config of a file, with overrides such as "--config.train.images=1000"."""
    if not os.path.isfile(path):
        raise ValueError(f"`config` (={path}) must be a config file; there is none")
    try:
        config = runpy.run_path(path)["get_config"]()
    except Exception as e:  # the file is the user's code: whatever it raises is a mistake in it
        raise ValueError(f"`config` (={path}) must run and define get_config: {type(e).__name__}: {e}") from e
    return changed(config, overrides, path)


def changed(config, overrides, path):
    """The validated `config`, which came from `path`, with overrides such as "--config.train.images=1000"."""
    from absl import flags

    values, argv = flags.FlagValues(), ["cdm", *overrides]
    try:
        _spell_out_schedules(config, overrides)
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)
    except (flags.Error, AttributeError, IndexError, KeyError, TypeError, ValueError) as e:
        text = str(e).replace("\\n", " ").replace("\\'", "'").strip("'\"")  # ml_collections quotes its own message
        if isinstance(e, (AttributeError, KeyError)) and text.split("'")[0].isidentifier():
            text = "there is no " + text.replace("'", ".", 1)  # a name, alone or with what may have been meant
        elif isinstance(e, IndexError):
            text = f"{' '.join(overrides)}: {text}"
        raise ValueError(f"`config` (={path}): {' '.join(text.split())}") from e
    if rest[1:]:
        raise ValueError(f"unknown argument {rest[1]!r}")
    try:
        validate(config)
    except (AttributeError, KeyError) as e:
        raise ValueError(f"`config` (={path}) must start from base_stage or sr_stage: {type(e).__name__}") from e
    return config


def _spell_out_schedules(config, overrides):
    """Give each schedule of which an override speaks all parameters of its kind, so that any can be overridden."""
    told = {}
    for argument, after in zip(overrides, [*overrides[1:], ""]):  # as absl reads them: -name=value, --name value
        name, equals, value = argument.partition("=")
        told[name.lstrip("-")] = value if equals else after
    for part in ("diffusion", "augment"):
        if any(name.startswith(f"config.{part}.schedule.") for name in told):
            now = dict(config[part].schedule)
            kind = told.get(f"config.{part}.schedule.name", now["name"])
            if kind in SCHEDULES:
                kept = now if kind == now["name"] else {}
                config[part].schedule = ConfigDict({**SCHEDULES[kind], **kept, "name": kind})


def from_dict(tree):
    """A frozen, validated config from the JSON of a run or a stage folder; what it does not say, an option younger than
    the folder, has its default."""
    make = sr_stage if "augment" in tree else base_stage
    sizes = [tree["lowres_size"], tree["size"]] if "augment" in tree else [tree["size"]]
    config = FrozenConfigDict(_merge(make(tree["name"], *sizes).to_dict(), _tuples(tree)))
    validate(config)
    return config


def _merge(defaults, tree, prefix=""):
    for name, value in tree.items():
        if name not in defaults:
            raise ValueError(f"`config.{prefix}{name}` (={value}) must be an option of a stage; there is none such")
        nested = isinstance(defaults[name], dict) and name != "schedule"  # whose parameters go with its kind
        defaults[name] = _merge(defaults[name], value, f"{prefix}{name}.") if nested else value
    return defaults


def _tuples(tree):
    if isinstance(tree, dict):
        return {key: _tuples(value) for key, value in tree.items()}
    return tuple(_tuples(v) for v in tree) if isinstance(tree, (list, tuple)) else tree


def _need(ok, name, value, rule):
    if not ok:
        raise ValueError(f"`{name}` (={value}) must {rule}")


def _count(config, *names, least=1):
    for name in names:
        value = config
        for part in name.split("."):
            value = value[part]
        _need(isinstance(value, numbers.Integral) and value >= least, name, value, f"be an integer of at least {least}")


def validate(config):
    """Raise ValueError, naming the argument, its value and the rule, unless a stage can be built from the config."""
    _count(config, "size", "model.channels", "model.blocks", "model.heads", "train.images", "train.batch_size",
           "checkpoint.every", "checkpoint.keep", "checkpoint.snapshots", "log.every", "log.grid", "sample.steps",
           "train.accumulate", "train.max_skipped", "mesh.fsdp")
    _count(config, "model.head_channels", "data.crop", "train.seed", "train.warmup", "train.ema_half_life",
           "checkpoint.keep_every", least=0)
    _need(isinstance(config.name, str) and re.fullmatch(r"[A-Za-z0-9_-]+", config.name), "name", config.name,
          "be letters, digits, _ and -")
    model, data, train, sample = config.model, config.data, config.train, config.sample
    _need(train.images >= train.batch_size, "train.images", train.images, f"be at least a batch (={train.batch_size})")
    for name in ("images", "seed"):
        _need(train[name] < 2**32, f"train.{name}", train[name], "be below 2^32")
    _need(config.dtype in ("auto", "float32", "bfloat16"), "dtype", config.dtype, "be auto, float32 or bfloat16")
    _need(len(model.multipliers) > 0 and all(isinstance(m, numbers.Real) and m > 0 and m * model.channels % 1 == 0
                                             for m in model.multipliers),
          "model.multipliers", model.multipliers, f"be one or more positive numbers, whole times {model.channels}")
    factor = 2 ** (len(model.multipliers) - 1)
    _need(config.size % factor == 0, "size", config.size, f"be divisible by {factor}, the model's downsampling")
    levels = [config.size // 2**i for i in range(len(model.multipliers))]
    for name in ("attention", "remat"):
        _need(all(side in levels for side in model[name]), f"model.{name}", model[name],
              f"name resolutions of the network: {levels}")
    for side in (*model.attention, *levels[-1:] * bool(model.attention)):  # and in the middle block
        width = int(model.channels * model.multipliers[levels.index(side)])
        name = "head_channels" if model.head_channels else "heads"
        _need(width % model[name] == 0, f"model.{name}", model[name], f"divide the {width} channels at {side} px")
    _need(model.embedding in ("adaptive", "additive"), "model.embedding", model.embedding, "be adaptive or additive")
    _need(model.resample in ("block", "between"), "model.resample", model.resample, "be block or between")
    _need(model.level in ("logsnr", "timestep"), "model.level", model.level, "be logsnr or timestep")
    _need(0 <= model.dropout < 1, "model.dropout", model.dropout, "lie in [0, 1)")
    _need(config.diffusion.target in ("eps", "x0", "v"), "diffusion.target", config.diffusion.target, "be eps, x0 or v")
    _need(config.diffusion.loss in ("diffusion", "regression"), "diffusion.loss", config.diffusion.loss,
          "be diffusion or regression")
    diffusion, discrete = config.diffusion, config.diffusion.schedule["name"] in ("linear_beta", "discrete_cosine")
    _need(diffusion.norm in (1, 2), "diffusion.norm", diffusion.norm, "be 1 or 2")
    _need(diffusion.weight in WEIGHTS, "diffusion.weight", diffusion.weight, f"be one of {', '.join(WEIGHTS)}")
    _need(diffusion.levels in ("continuous", "table", "interval"), "diffusion.levels", diffusion.levels,
          "be continuous, table or interval")
    _need(discrete or diffusion.levels == "continuous", "diffusion.levels", diffusion.levels,
          f"be continuous with the schedule {diffusion.schedule['name']}, which has no table")
    _need(discrete or model.level == "logsnr", "model.level", model.level,
          f"be logsnr with the schedule {diffusion.schedule['name']}, which has no timesteps")
    _need(diffusion.variance in ("fixed", "learned"), "diffusion.variance", diffusion.variance, "be fixed or learned")
    _need(diffusion.variance == "fixed" or (diffusion.levels == "table" and diffusion.loss == "diffusion"),
          "diffusion.variance", diffusion.variance, "be fixed unless `diffusion.levels` is table")
    _need(config.diffusion.data_std > 0, "diffusion.data_std", config.diffusion.data_std, "be positive")
    _need(isinstance(train.init_from, str), "train.init_from", train.init_from, "be the path of a stage folder")
    _need(isinstance(train.teacher, str), "train.teacher", train.teacher, "be the path of a stage folder")
    if train.teacher:  # it learns the steps of this very sampling, with what guides them built in
        for name, value in (("train.class_dropout", 0), ("sample.guidance", 0), ("sample.sampler", "ddim"),
                            ("sample.eta", 0), ("sample.grid", "time")):
            part, option = name.split(".")
            _need(config[part][option] == value, name, config[part][option], f"be {value} with a teacher")
        _need(not train.init_from, "train.init_from", train.init_from, "be empty: a student begins as its teacher")
    _need(train.learning_rate > 0, "train.learning_rate", train.learning_rate, "be positive")
    _need(train.clip >= 0, "train.clip", train.clip, "be at least 0")
    _need(0 <= train.class_dropout < 1, "train.class_dropout", train.class_dropout, "lie in [0, 1)")
    _need(all(0 < sigma < 0.28 for sigma in train.ema_sigmas), "train.ema_sigmas", train.ema_sigmas,
          "lie between 0 and 0.28")
    _need(len(train.ema_sigmas) == 0 or len(set(train.ema_sigmas)) > 1, "train.ema_sigmas", train.ema_sigmas,
          "be two or more, or none")
    _need(train.batch_size % train.accumulate == 0, "train.accumulate", train.accumulate,
          f"divide the batch (={train.batch_size})")
    _need(isinstance(config.mesh.data, int) and (config.mesh.data == -1 or config.mesh.data >= 1), "mesh.data",
          config.mesh.data, "be an integer of at least 1, or -1")
    _need(all(writer in ("tensorboard", "wandb") for writer in config.log.writers), "log.writers", config.log.writers,
          "be tensorboard or wandb")
    _need(train.decay in ("none", "cosine"), "train.decay", train.decay, "be none or cosine")
    _need(sample.sampler in SAMPLERS, "sample.sampler", sample.sampler, f"be one of {', '.join(SAMPLERS)}")
    _need(sample.guidance >= 0, "sample.guidance", sample.guidance, "be at least 0")
    _need(data.square in ("center", "random", "adm"), "data.square", data.square, "be center, random or adm")
    _need(not (data.cache and data.square == "random"), "data.cache", data.cache, "be False with random squares")
    _need(data.crop % factor == 0 and data.crop <= config.size, "data.crop", data.crop,
          f"be at most `size` (={config.size}) and divisible by {factor}")
    regression = config.diffusion.loss == "regression"
    if "augment" not in config:
        _need(not regression, "diffusion.loss", "regression", "be diffusion in a base stage: it has no input")
        return
    augment = config.augment
    _count(config, "lowres_size")
    _need(model.lowres_resize in ("bicubic", "bilinear"), "model.lowres_resize", model.lowres_resize,
          "be bicubic or bilinear")
    _need(config.size % config.lowres_size == 0 and config.size > config.lowres_size, "lowres_size", config.lowres_size,
          f"divide `size` (={config.size})")
    _need(data.crop % (config.size // config.lowres_size) == 0, "data.crop", data.crop,
          f"be divisible by the scale {config.size // config.lowres_size}")
    degrade = config.degrade
    _need(degrade.kind in DEGRADATIONS, "degrade.kind", degrade.kind, f"be one of {', '.join(DEGRADATIONS)}")
    _need(isinstance(data.lowres, str) and bool(data.lowres) == (degrade.kind == "pairs"), "data.lowres", data.lowres,
          "name the low-res pictures of pairs" if degrade.kind == "pairs" else f"be empty with {degrade.kind}")
    _need(not (data.lowres and data.square == "adm"), "data.square", data.square, "be center or random with pairs")
    for name, least, most in (("blur", 0, 8), ("scale", 0.1, 4), ("noise", 0, 255), ("quality", 1, 100)):
        bounds = degrade[name]
        _need(len(bounds) == 2 and least <= bounds[0] <= bounds[1] <= most, f"degrade.{name}", bounds,
              f"be a range within {least} to {most}")
    _need(0 <= augment.max_level <= 1, "augment.max_level", augment.max_level, "lie in [0, 1]")
    _need(0 <= augment.blur_probability <= 1, "augment.blur_probability", augment.blur_probability, "lie in [0, 1]")
    _need(len(augment.blur_sigma) == 2 and 0 < augment.blur_sigma[0] <= augment.blur_sigma[1], "augment.blur_sigma",
          augment.blur_sigma, "be a range of positive numbers")
    _need(0 <= sample.aug_level <= augment.max_level, "sample.aug_level", sample.aug_level,
          f"lie in [0, {augment.max_level}], the levels the stage is trained for")
    if regression:  # of one answer, whatever the noise: neither a level of it nor a further step has a meaning
        for name, value in (("diffusion.target", "x0"), ("augment.max_level", 0.0), ("sample.steps", 1)):
            part, option = name.split(".")
            _need(config[part][option] == value, name, config[part][option], f"be {value} in a regression")

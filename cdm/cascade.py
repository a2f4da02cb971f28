"""The runner: stages composed into one sampler of images.

Image i of a label under a seed is one image: its key folds the seed, a CRC of the stage's name, the label and i, the
count within that label; the start noise, the noise of each step and the augmentation's come from folds of their own.
No key knows the batch, so neither batch size, device count, other classes nor the stage a run starts at changes a
picture. A cascade folder is cascade.json (schema_version, stage folders in order, sampling) beside its stage folders.
"""

import concurrent.futures
import functools
import pathlib
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdm import devices
from cdm.diffusion import samplers
from cdm.images import augment
from cdm.images.files import new_folder, reading, write_json
from cdm.images.resize import to_float, to_uint8
from cdm.settings import OPTIONS, SEQUENCES, plan, settings_of
from cdm.stage import Stage, load_stage

SCHEMA_VERSION = 1
PIXELS = 2**14  # that a core has at a time (docs/speed.md)
START, STEPS, AUGMENT = range(3)  # the folds of an image's key


def image_keys(seed, stage_name, labels, counts):
    """Keys [B] of the images (label, count) in this stage; see the module's docstring."""
    root = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), np.uint32(zlib.crc32(stage_name.encode())))
    return jax.vmap(lambda label, count: jax.random.fold_in(jax.random.fold_in(root, label), count))(labels, counts)


def _fold(keys, data):
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


class _Kind(NamedTuple):
    """What makes another program of a stage: beside shapes, guided or not, and guided everywhere or not."""

    given_noisy: bool
    threshold: str
    guide: Stage | None
    previews: int


def _kind(settings, guide, previews=0):
    return _Kind(settings.hand_over == "truncated", settings.threshold, guide if settings.guidance else None, previews)


def _sample(stage, kind, params, keys, labels, lowres, aug_level, guidance, interval, plan):
    """One stage from noise to the plan's last knot: [B, size, size, 3] float32, and what samplers.sample gives of
    previews; the traced body of every program. `params` are (the stage's, its guide's or None)."""
    aug_logsnr = None
    if stage.lowres_size:
        level = jnp.full(labels.shape, aug_level, jnp.float32)
        if kind.given_noisy:
            aug_logsnr = stage.augment_schedule.logsnr(level)
        else:
            lowres, aug_logsnr = augment.hand_over(lowres, level, stage.augment_schedule, _fold(keys, AUGMENT))
    shape = (stage.size, stage.size, 3)
    step_keys = _fold(keys, STEPS)
    guide = kind.guide and (kind.guide, params[1])
    denoise = stage.denoiser(params[0], labels, lowres, aug_logsnr, guidance, guide, interval, kind.threshold)
    return samplers.sample(plan, denoise, lambda i: augment.normal(_fold(step_keys, i), shape),
                           augment.normal(_fold(keys, START), shape), kind.previews)


def _arguments(mesh, stage, settings, seed, labels, counts, lowres, plan):
    """The arguments of a stage's program for one batch, placed on the devices."""
    split, everywhere = devices.shardings(mesh)
    keys = image_keys(seed, stage.name, jnp.asarray(labels, jnp.uint32), jnp.asarray(counts, jnp.uint32))
    put = functools.partial(jax.device_put, device=split)
    guidance = np.float32(settings.guidance) if settings.guidance else None
    interval = np.float32(settings.interval) if settings.guidance and settings.interval else None
    rest = (np.float32(settings.aug_level or 0), guidance, interval, plan)
    return (put(keys), put(np.asarray(labels, np.int32)), None if lowres is None else put(lowres),
            *jax.device_put(rest, everywhere))


@functools.lru_cache(maxsize=16)
def _program(mesh, stage, kind):
    """The jitted program of a stage: one for all settings but for what a _Kind tells."""
    given = (devices.EVERYWHERE, *[devices.BATCH] * 3, *[devices.EVERYWHERE] * 4)
    made = (devices.BATCH, devices.SECOND) if kind.previews else devices.BATCH
    return devices.split(functools.partial(_sample, stage, kind), mesh, given, made, turn(stage))


def turn(stage):
    """How many pictures of a stage a core has at a time: what is computed of more does not stay in its cache."""
    return max(1, PIXELS // stage.size**2)


def _plan(stage, settings, following=None):
    """The stage's Plan; stopped at the next stage's augmentation level where that one takes its input truncated."""
    stop = None
    if following and following[1].hand_over == "truncated":
        stop = float(following[0].augment_schedule.logsnr(following[1].aug_level))
        if not stage.schedule.logsnr_min < stop <= stage.schedule.logsnr_max:
            raise ValueError(
                f"`aug_level` (={following[1].aug_level}) of {following[0].name} must be a level that {stage.name} "
                f"passes: its logSNR {stop:.2f} is outside ({stage.schedule.logsnr_min:.2f}, "
                f"{stage.schedule.logsnr_max:.2f}]")
    return plan(stage, settings, stop)


def count_labels(labels):
    """The count of each image within its label: [3, 3, 5] gives [0, 1, 0]."""
    seen, counts = {}, []
    for label in labels:
        counts.append(seen.get(int(label), 0))
        seen[int(label)] = counts[-1] + 1
    return np.array(counts, np.int64)


def sample_stage(stage, labels, seed=0, lowres=None, counts=None, **changes):
    """Sample one stage alone: [B, size, size, 3] in [-1, 1]. `lowres` [B, h, w, 3] in [-1, 1] for an SR stage; `counts`
    of a part of more images, those of `count_labels`, else from 0; `changes` are those of `settings_of`."""
    settings = settings_of(stage, **changes)
    counts = count_labels(labels) if counts is None else counts
    mesh = devices.mesh(len(labels), stage.params)
    index = np.arange(devices.padded(len(labels), mesh)) % len(labels)
    lowres = None if lowres is None else np.asarray(lowres, np.float32)[index]
    arguments = _arguments(mesh, stage, settings, seed, np.asarray(labels)[index], counts[index], lowres,
                           _plan(stage, settings))
    params = jax.device_put((stage.params, None), devices.shardings(mesh)[1])
    images = _program(mesh, stage, _kind(settings, None))(params, *arguments)
    return np.clip(images[: len(labels)], -1, 1)


class Cascade:
    """Stages in a chain: a base stage, then super-resolution stages, each taking the size the one before gives.

    `sampling` maps a stage's name to the settings that differ from its config's. `guides` maps one to a weaker Stage of
    the same task, smaller or less trained, which its guidance then leads away from (autoguidance), instead of from no
    class.
    """

    def __init__(self, stages, sampling=None, guides=None):
        self.stages, self.sampling, self.guides = list(stages), dict(sampling or {}), dict(guides or {})
        self._programs = {}  # compiled

        @functools.cache
        def on_devices(i, mesh):
            return jax.device_put(self._params(i), devices.shardings(mesh)[1])

        self._on_devices = on_devices
        if not self.stages:
            raise ValueError("`stages` (=[]) must name at least one stage")
        if self.stages[0].lowres_size:
            raise ValueError(f"`stages`: the first, {self.stages[0].name}, must be a base stage, but wants "
                             f"{self.stages[0].lowres_size} px input")
        for low, high in zip(self.stages, self.stages[1:]):
            if high.lowres_size != low.size:
                wants = f"wants {high.lowres_size} px input" if high.lowres_size else "is a base stage"
                raise ValueError(f"`stages` must chain: {low.name} gives {low.size} px and {high.name} {wants}")
            if high.classes and high.classes != self.classes:
                raise ValueError(f"`stages` must share their classes, or have none: {high.name}'s are not "
                                 f"{self.stages[0].name}'s")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"`stages` (={', '.join(names)}) must have names of their own")
        for argument, given in (("sampling", self.sampling), ("guides", self.guides)):
            for name in given:
                if name not in names:
                    raise ValueError(f"`{argument}` (={name}) must name a stage of {', '.join(names)}")
        for name, guide in self.guides.items():
            stage = self.stages[names.index(name)]
            if (guide.size, guide.lowres_size, guide.classes) != (stage.size, stage.lowres_size, stage.classes):
                raise ValueError(f"`guides` (={guide.name}) of {name} must have its sizes and classes")
        self.settings()

    @property
    def classes(self):
        return self.stages[0].classes

    def _params(self, i):
        """(those of a stage, those of its guide or None)."""
        guide = self.guides.get(self.stages[i].name)
        return self.stages[i].params, guide and guide.params

    def index(self, name, argument="start_at"):
        """The place of the stage called `name` in the chain."""
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise ValueError(f"`{argument}` (={name}) must be a stage of the cascade: {', '.join(names)}")
        return names.index(name)

    def settings(self, aug_level=None, hand_over=None, **changes):
        """The Settings of every stage. Each argument, a setting, is None, one value for all, or a sequence with one per
        stage (`aug_level` and `hand_over`: one per super-resolution stage)."""

        def spread(name, value, count):
            several = isinstance(value, (list, tuple)) and not (
                name in SEQUENCES and all(isinstance(part, float | int) for part in value))
            values = list(value) if several else [value]
            if len(values) not in (1, count):
                given = ",".join(map(str, values))
                raise ValueError(f"`{name}` (={given}) must have 1 or {count} values, one per stage")
            return values * count if len(values) == 1 else values

        count = len(self.stages)
        every = {name: spread(name, value, count) for name, value in changes.items()}
        above = {name: [None] + spread(name, value, count - 1)
                 for name, value in dict(aug_level=aug_level, hand_over=hand_over).items()}
        result = []
        for i, stage in enumerate(self.stages):
            asked = {name: values[i] for name, values in (every | above).items() if values[i] is not None}
            result.append(settings_of(stage, self.guides.get(stage.name), **{**self._own(stage, asked), **asked}))
        for i, (stage, following) in enumerate(zip(self.stages, zip(self.stages[1:], result[1:]))):
            _plan(stage, result[i], following)
        return result

    def _own(self, stage, asked):
        """The cascade's settings of a stage, less the option of a sampler that another was asked for instead of."""
        own = self.sampling.get(stage.name, {})
        if asked.get("sampler", own.get("sampler")) == own.get("sampler"):
            return own
        return {name: value for name, value in own.items() if name not in OPTIONS.values()}

    def check(self, settings, batch_size=None, start_at=None, stop_at=None):
        """(first, last, plans by stage index) of a run with these arguments; ValueError for what can not be run."""
        first = self.index(start_at) if start_at else 0
        last = self.index(stop_at, "stop_at") if stop_at else len(self.stages) - 1
        if first > last:
            raise ValueError(f"`start_at` (={start_at}) must not come after `stop_at` (={stop_at})")
        if first and settings[first].hand_over == "truncated":
            raise ValueError(f"`hand_over` (=truncated) of {start_at} must be non_truncated: a run that starts there "
                             "has finished images to go on from")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"`batch_size` (={batch_size}) must be at least 1")
        # The last stage to run always finishes; the others may stop where the next one takes over.
        following = [*zip(self.stages, settings)][1 : last + 1] + [None]
        return first, last, {i: _plan(self.stages[i], settings[i], following[i]) for i in range(first, last + 1)}

    def run(self, labels, counts, seed, settings, batch_size=None, start_at=None, stop_at=None, lowres=None,
            previews=0):
        """Iterate the batches: (slice of the images, {stage name: [b, size, size, 3] float32 in [-1, 1]}, the same
        of `previews`, a number K: {stage name: [b, K, size, size, 3]}, x0 as it was predicted on the way, or {}). Their
        size, if None, is eight times the devices, or about eight on a CPU.

        Each stage is one compiled program; while one samples, the next is compiled in another thread. A state that is
        handed on truncated is given as it is, noisy. `lowres(index)` reads the input of `start_at` for the images
        `index`: [b, h, w, 3] in [-1, 1].
        """
        first, last, plans = self.check(settings, batch_size, start_at, stop_at)
        chosen = range(first, last + 1)
        every = [self._params(i) for i in chosen]
        batch_size = batch_size or devices.batch(len(labels), 8, every)
        mesh = devices.mesh(batch_size, every)
        size = devices.padded(batch_size, mesh)

        def arguments(i, labels, counts, lowres):
            return _arguments(mesh, self.stages[i], settings[i], seed, labels, counts, lowres, plans[i])

        def compile_stage(i):
            stage, kind = self.stages[i], _kind(settings[i], self.guides.get(self.stages[i].name), previews)
            key = i, mesh, size, bool(settings[i].guidance), bool(settings[i].interval), kind
            if key not in self._programs:
                one = np.zeros(size, np.int32)
                low = np.zeros([size, stage.lowres_size, stage.lowres_size, 3], np.float32) if i else None
                params = self._on_devices(i, mesh)
                program = _program(mesh, stage, kind).lower(params, *arguments(i, one, one, low)).compile()
                self._programs[key] = functools.partial(program, params)
            return self._programs[key]

        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            programs = {i: executor.submit(compile_stage, i) for i in chosen}
            try:
                for begin in range(0, len(labels), batch_size):
                    part = slice(begin, min(begin + batch_size, len(labels)))
                    index = np.minimum(np.arange(begin, begin + size), part.stop - 1)  # the last one padded
                    x = lowres(index) if first else None
                    images, shown = {}, {}
                    for i in chosen:
                        x = programs[i].result()(*arguments(i, labels[index], counts[index], x))
                        if previews:
                            x, way = x
                            shown[self.stages[i].name] = np.asarray(way).swapaxes(0, 1)[: part.stop - begin]
                        images[self.stages[i].name] = np.asarray(x)[: part.stop - begin]
                    yield part, images, shown
            finally:
                executor.shutdown(cancel_futures=True)

    def sample(self, labels, seed=0, batch_size=None, start_at=None, stop_at=None, lowres=None, **changes):
        """Images [N, size, size, 3] uint8 of these classes (names or indices, N of them).

        `changes` are those of `settings`; `lowres` [N, h, w, 3] uint8 is the input of the stage `start_at`. Raises
        ValueError for an unknown class, N = 0, or settings that the stages do not allow.
        """
        first = self.index(start_at) if start_at else 0
        if first:
            low = (len(labels), self.stages[first].lowres_size, self.stages[first].lowres_size, 3)
            if getattr(lowres, "shape", None) != low or lowres.dtype != np.uint8:
                given = f"{lowres.dtype} {lowres.shape}" if hasattr(lowres, "shape") else lowres
                raise ValueError(f"`lowres` (={given}) must be uint8 {low}, the input of {start_at}")
        elif lowres is not None:
            raise ValueError("`lowres` must come with `start_at`, the stage whose input it is")
        if len(labels) == 0:
            raise ValueError("`labels` (=[]) must name at least one image")
        check_seed(seed)
        labels = np.array([self.stages[0].label(label) for label in labels])
        parts = self.run(labels, count_labels(labels), seed, self.settings(**changes), batch_size, start_at, stop_at,
                         lambda index: to_float(lowres[index]))
        return np.concatenate([to_uint8(list(images.values())[-1]) for _, images, _ in parts])

    def save(self, folder, dtype=np.float32):
        """Write the cascade folder with its stage folders, whole or not at all; `folder` must not exist yet."""
        with new_folder(folder) as partial:
            for stage in self.stages:
                stage.save(partial / stage.name, dtype)
            for name, guide in self.guides.items():
                guide.save(partial / _guide_of(name), dtype)
            write_json(partial / "cascade.json", {
                "schema_version": SCHEMA_VERSION, "stages": [stage.name for stage in self.stages],
                "sampling": self.sampling, "guides": list(self.guides)})


def _guide_of(name):
    """The stage folder of a stage's guide in a cascade folder."""
    return f"guide_of_{name}"


def check_seed(seed):
    """ValueError unless the seed is one that keys are made of."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` (={seed}) must lie in 0..2^32 - 1")


def load_cascade(folder):
    """The Cascade in a cascade folder, or that of the one base stage in a stage folder."""
    if (pathlib.Path(folder) / "stage.json").exists():
        return Cascade([load_stage(folder)])
    with reading(folder, "cascade.json", "cascade", SCHEMA_VERSION) as about:
        names = [str(name) for name in about["stages"]]
        sampling = {str(name): dict(settings) for name, settings in about["sampling"].items()}
        guides = [str(name) for name in about.get("guides", ())]
    folder = pathlib.Path(folder)
    return Cascade([load_stage(folder / name) for name in names], sampling,
                   {name: load_stage(folder / _guide_of(name)) for name in guides})


def write_sampling(folder, sampling):
    """Write the settings {stage's name: settings} into a cascade folder; those of its other stages stay."""
    with reading(folder, "cascade.json", "cascade", SCHEMA_VERSION) as about:
        about["sampling"].update(sampling)
    write_json(pathlib.Path(folder) / "cascade.json", about)


def shipped(name="emoji"):
    """A folder that comes with the package: of the cascade, or of a stage."""
    return pathlib.Path(__file__).parent / "weights" / name

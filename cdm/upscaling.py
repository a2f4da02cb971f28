"""A picture of any size through super-resolution stages: diffusion on a canvas of windows.

A stage sees the canvas through windows of its own size. At every step each window's denoiser says what x0 is of the x_t
cut from the canvas; these x0 are blended to one (cdm.images.canvas), and the sampler takes one step on the whole
canvas, with noise of the canvas. So predictions are averaged, as in Mixture of Diffusers (Jimenez 2023), and never
noisy states, as in MultiDiffusion (Bar-Tal et al. 2023), which would shrink their noise.

A version of a picture under a seed is one picture: its noise folds the seed, a CRC of the stage's name, the pass, the
version, what it is for and the cell of the canvas. No key knows the windows, their batch or the memory there is.
"""

import collections
import functools
import time
import weakref
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdm import devices, nn
from cdm.cascade import AUGMENT, START, STEPS, check_seed
from cdm.describe import peak
from cdm.diffusion import process, samplers
from cdm.images import canvas
from cdm.images.consistent import finish, lock, project
from cdm.images.resize import resize
from cdm.settings import Settings, plan, settings_of
from cdm.stage import Stage

# Degradations whose stages can not be held to their input, and why.
INCONSISTENT = {
    "photo": "trained on photo degradations, it takes away noise and JPEG's traces, which a picture that shrinks to "
             "its input must have",
    "pairs": "trained on pairs, whose low-res pictures are not the others made small, it makes pictures that do not "
             "shrink to its input"}
OVERLAP = 0.25  # of a window, that neighbours share at least
VERSIONS = 4  # that `fidelity` takes the mean of where only one is asked for
_seconds = weakref.WeakKeyDictionary()  # that a window took of a stage, in the step that was quickest


class Enlarged(NamedTuple):
    """What became of a picture, float32 in [-1, 1]: `image` [H, W, 3]; and, of several samples, their `versions`
    [K, H, W, 3], `mean` [H, W, 3] and `std` [H, W] (over the versions, root mean square over the colours)."""

    image: np.ndarray
    versions: np.ndarray | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None


class Pass(NamedTuple):
    """One stage over a whole canvas: of `size` (height, width), made of one `factor` times smaller, on which windows
    begin at `rows` and `columns` and share `overlap` pixels."""

    stage: Stage
    settings: Settings
    label: int
    factor: int
    size: tuple
    rows: np.ndarray
    columns: np.ndarray
    overlap: int

    @property
    def windows(self):
        return len(self.rows) * len(self.columns)


def _ready(stages, label, **given):
    """(stage, its Settings, its label) of each; a value given is one for all, or a sequence with one per stage."""
    result, classed = [], any(stage.classes for stage in stages)
    for i, stage in enumerate(stages):
        if not stage.lowres_size:
            raise ValueError(f"`stages` (={stage.name}) must be super-resolution stages: this is a base stage")
        own = {}
        for name, value in given.items():
            values = list(value) if isinstance(value, (list, tuple)) else [value]
            if len(values) not in (1, len(stages)):
                raise ValueError(f"`{name}` (={','.join(map(str, values))}) must have 1 or {len(stages)} values, one "
                                 "per stage")
            own[name] = values[i % len(values)]
        if label is not None and (stage.classes or not classed):
            number = stage.label(label)
        elif stage.classes and not stage.config.train.class_dropout > 0:
            raise ValueError(f"`label` (=None) must be a class, as {stage.name} was trained with one always: "
                             f"{', '.join(stage.classes)}")
        elif own["guidance"]:
            raise ValueError(f"`guidance` (={own['guidance']}) must come with a `label`, the class that it leads to")
        else:
            number, own["guidance"] = stage.null_label, 0.0
        result.append((stage, settings_of(stage, **own), number))
    return result


def route(height, width, stages, size, *, steps=None, aug_level=None, sampler=None, guidance=None, label=None,
          consistent=False, overlap=OVERLAP):
    """(the passes that bring a picture to `size` (H, W) or beyond, (height, width) it is padded to before the first).
    The stages come in order, the last again and again; arguments are those of `enlarge`."""
    if not (size[0] >= height >= 1 and size[1] >= width >= 1):
        raise ValueError(f"`size` (={size[0]}x{size[1]}) must be at least the picture's, {height}x{width}")
    if not stages:
        raise ValueError("`stages` (=[]) must name at least one stage")
    if not 0 < overlap < 1:
        raise ValueError(f"`overlap` (={overlap}) must lie in (0, 1)")
    ready = _ready(stages, label, steps=steps, aug_level=aug_level, sampler=sampler, guidance=guidance)
    for stage in stages:
        if consistent and stage.config.degrade.kind in INCONSISTENT:
            raise ValueError(f"`consistent` (=True) must be False for {stage.name}: "
                             + INCONSISTENT[stage.config.degrade.kind])
    chain, scale = [], 1
    while height * scale < size[0] or width * scale < size[1]:
        stage, settings, number = ready[min(len(chain), len(ready) - 1)]
        chain.append((stage, settings, number, scale))
        scale *= stage.size // stage.lowres_size
    # However small the picture, a window fits into every canvas.
    least = max((-(-stage.lowres_size // scale) for stage, *_, scale in chain), default=1)
    padded = max(height, least), max(width, least)
    passes = []
    for stage, settings, number, scale in chain:
        window, factor = stage.lowres_size, stage.size // stage.lowres_size
        shared = pixels_shared(window, overlap)
        rows, columns = (canvas.starts(side * scale, window, shared) for side in padded)
        passes.append(Pass(stage, settings, number, factor, tuple(side * scale * factor for side in padded), rows,
                           columns, shared))
    return passes, padded


def pixels_shared(window, overlap=OVERLAP):
    """What neighbouring windows of so many pixels share at least."""
    return min(max(1, round(overlap * window)), window - 1)


def _versions(passes, samples, fidelity):
    """How many versions are drawn."""
    if not samples >= 1:
        raise ValueError(f"`samples` (={samples}) must be at least 1")
    if not 0 <= fidelity <= 1:
        raise ValueError(f"`fidelity` (={fidelity}) must lie in [0, 1]")
    certain = all(one.stage.regression for one in passes)
    return VERSIONS if samples == 1 and fidelity and not certain else samples


def estimate(height, width, stages, size, *, samples=1, fidelity=0.0, **options):
    """What `enlarge` takes for a picture of this size, JSON-ready: `passes`; their `windows`; `evaluations`, windows x
    steps x versions, which `progress` counts; `bytes` of the host's memory; `seconds`, None until a window of every
    stage has been timed. `options` are those of `route`."""
    passes, _ = route(height, width, stages, size, **options)
    count = _versions(passes, samples, fidelity)
    area = max((np.prod(one.size) for one in passes), default=0)
    # Of a canvas x, x0, the x0 before and what becomes of x; of the result itself, what becomes of it, and its mean.
    pixels = 4 * area + np.prod(size) * (3 + (count if samples > 1 else 0))
    timed = all(one.stage in _seconds for one in passes)
    return {
        "passes": [{"stage": one.stage.name, "size": list(one.size), "windows": one.windows,
                    "steps": one.settings.steps} for one in passes],
        "windows": sum(one.windows for one in passes),
        "evaluations": count * sum(one.windows * one.settings.steps for one in passes),
        "bytes": 12 * int(pixels),
        "seconds": count * sum(one.windows * one.settings.steps * _seconds[one.stage] for one in passes)
        if timed else None,
    }


def _in_turn():
    """Whether a device has its windows one after the other: a core or a whole CPU, which a window keeps busy. Several
    in one program all the same, as the memory of its values is fresh at every call, and comes page by page."""
    return devices.on_cpu()


@functools.lru_cache(maxsize=16)
def _denoiser(mesh, stage, threshold):
    """The jitted program that denoises windows [turns, windows at a time, ...], of which so many `turns` are asked for:
    (x0, fraction)."""

    def denoise(params, x, lowres, turns, label, aug_logsnr, logsnr, guidance, interval):

        def look(x, lowres):
            each = functools.partial(jnp.full, x.shape[:1])
            x0, _, fraction = stage.denoiser(params, each(label), lowres, each(aug_logsnr), guidance, None, interval,
                                             threshold)(x, each(logsnr))
            return x0, fraction

        def put(i, made):
            one = look(x[i], lowres[i])
            return jax.tree.map(lambda whole, part: jax.lax.dynamic_update_index_in_dim(whole, part, i, 0), made, one)

        if len(x) == 1:
            return jax.tree.map(lambda made: made[None], look(x[0], lowres[0]))
        none = jax.tree.map(lambda made: jnp.zeros((len(x), *made.shape), made.dtype),
                            jax.eval_shape(look, x[0], lowres[0]))
        return jax.lax.fori_loop(0, turns, put, none)

    given = (devices.EVERYWHERE, devices.SECOND, devices.SECOND, *[devices.EVERYWHERE] * 6)
    return devices.split(denoise, mesh, given, devices.SECOND)


@jax.jit
def _step(plan, i, key, corners, x, x0, previous, fraction):
    """The sampler's step on cells of the canvas, of which x0 is known."""

    def noise(i):
        return canvas.cell_noise(jax.random.fold_in(key, i), corners)

    return samplers.step(plan, lambda *_: process.Prediction(x0, None, fraction), noise, i, (x, previous))[0]


class Batches:
    """Batches of `size`, halved for good, to multiples of `least`, where the devices' memory does not hold them."""

    def __init__(self, size, least=1):
        self.size, self.least = size, least

    def __call__(self, run, items):
        """Iterate (some of the items [n, ...], what `run` makes of them, as NumPy arrays). The last batch is filled up
        with the last item, and what is made of the filling is of no account. Devices work on the next batch while the
        caller has one."""
        first, least, begun = 0, self.least, collections.deque()
        while begun or first < len(items):
            try:
                while len(begun) < 2 and first < len(items):
                    part = items[np.minimum(np.arange(first, first + self.size), len(items) - 1)]
                    begun.append((first, part[: len(items) - first], run(part)))
                    first += self.size
                result = jax.device_get(begun[0][2])
            except jax.errors.JaxRuntimeError as e:
                if "RESOURCE_EXHAUSTED" not in str(e) or self.size <= least:
                    raise
                self.size = max(least, self.size // 2 // least * least)
                first = begun[0][0] if begun else first
                begun.clear()
            else:
                yield begun.popleft()[1], result


@functools.lru_cache(maxsize=16)
def _bytes(stage):
    """Of a device's memory, what denoising a window takes."""
    x, lowres = (jax.ShapeDtypeStruct((1, side, side, 3), np.float32) for side in (stage.size, stage.lowres_size))
    level, label = jax.ShapeDtypeStruct((1,), np.float32), jax.ShapeDtypeStruct((1,), np.int32)
    params = jax.eval_shape(lambda: nn.cast(stage.params, stage.dtype))
    return peak(jax.make_jaxpr(stage.predict)(params, x, level, label, lowres, level).jaxpr)


def _batches(one, window_batch):
    """(the devices of a pass, its Batches). Unless told otherwise these are, on a CPU, eight windows a device, of 16 MB
    together at most or one each, whatever the picture's size, so that two programs do for all; on other devices what
    fits into half of the memory that is free, or a window each where they do not tell, in powers of two."""
    if window_batch is not None and window_batch < 1:
        raise ValueError(f"`window_batch` (={window_batch}) must be at least 1")
    mesh = devices.mesh(min(one.windows, window_batch or one.windows), one.stage.params)
    if window_batch is not None:
        each = -(-window_batch // mesh.size)
    elif _in_turn():
        each = min(max(1, 2**24 // (4 * 3 * one.stage.size**2 * mesh.size)), 8)
    else:
        memory, each = jax.local_devices()[0].memory_stats(), 1
        if memory and "bytes_limit" in memory:
            free = memory["bytes_limit"] - memory["bytes_in_use"]
            each = min(max(1, free // 2 // (_bytes(one.stage) * (2 if one.settings.guidance else 1))), 64)
        each = 2 ** (each.bit_length() - 1)
    if not _in_turn():
        each = min(each, 2 ** (-(-one.windows // mesh.size) - 1).bit_length())
    return mesh, Batches(each * mesh.size, mesh.size)


def canvas_key(seed, stage, place, number):
    """The key of a canvas: of the stage as the pass `place` of version `number`, both from 0."""
    key = jax.random.key(seed, impl="threefry2x32")
    for data in (zlib.crc32(stage.name.encode()), place, number):
        key = jax.random.fold_in(key, np.uint32(data))
    return key


def _diffuse(one, mesh, batches, lowres, key, asked, progress):
    """One pass: from its canvas `lowres` to one of its size, in [-1, 1]. `asked` is the picture that every x0 has to
    shrink to, or None."""
    stage, settings, factor = one.stage, one.settings, one.factor
    split, everywhere = devices.shardings(mesh, devices.SECOND)
    start_key, step_key, augment_key = (jax.random.fold_in(key, use) for use in (START, STEPS, AUGMENT))
    aug_logsnr = np.float32(stage.augment_schedule.logsnr(settings.aug_level))
    if settings.aug_level > 0:
        alpha, sigma = map(np.float32, process.alpha_sigma(aug_logsnr))
        lowres = alpha * lowres + sigma * canvas.noise(augment_key, *lowres.shape[:2])
    guidance = np.float32(settings.guidance) if settings.guidance else None
    interval = np.float32(settings.interval) if settings.guidance and settings.interval else None
    table = jax.device_put(plan(stage, settings))
    params = jax.device_put(nn.cast(stage.params, stage.dtype), everywhere)
    denoise = _denoiser(mesh, stage, settings.threshold)
    down, across = (canvas.weights(begins * factor, stage.size, side, one.overlap * factor)
                    for begins, side in zip((one.rows, one.columns), one.size))
    windows = np.stack(np.unravel_index(np.arange(one.windows), (len(one.rows), len(one.columns))), axis=1)

    x = canvas.noise(start_key, *one.size)
    x0, previous = np.zeros_like(x), np.zeros_like(x)
    fraction = np.zeros_like(x) if stage.learned_variance else None
    for i in range(int(table.steps)):

        def look(part):
            corners = np.stack([one.rows[part[:, 0]], one.columns[part[:, 1]]], axis=1)
            seen = canvas.cut(x, corners * factor, stage.size), canvas.cut(lowres, corners, stage.lowres_size)
            once = mesh.size if _in_turn() else len(part)
            seen = (squares.reshape(-1, once, *squares.shape[1:]) for squares in seen)
            turns = np.int32(-(-len(np.unique(part, axis=0)) // once))  # the last batch is filled up
            return denoise(params, *jax.device_put(tuple(seen), split), turns, np.int32(one.label), aug_logsnr,
                           table.logsnr[i], guidance, interval)

        previous, x0 = x0, previous
        blended = (x0,) if fraction is None else (x0, fraction)
        for part in blended:
            part[:] = 0
        begin = time.perf_counter()
        for part, squares in batches(look, windows):
            for k, (row, column) in enumerate(part):
                weight = down[row][:, None, None] * across[column][:, None]
                top, left = one.rows[row] * factor, one.columns[column] * factor
                for whole, made in zip(blended, squares):
                    square = made[divmod(k, made.shape[1])]
                    whole[top : top + stage.size, left : left + stage.size] += weight * square
            progress(len(part))
        _seconds[stage] = min((time.perf_counter() - begin) / one.windows, _seconds.get(stage, np.inf))
        if asked is not None:
            project(x0, asked)
        for corners in canvas.cells(*one.size):
            cells = (part if part is None else canvas.cut(part, corners, canvas.CELL)
                     for part in (x, x0, previous, fraction))
            canvas.paste(x, corners, np.asarray(_step(table, np.int32(i), step_key, corners, *cells)))
    return np.clip(x, -1, 1, out=x)


def enlarge(image, stages, size, *, steps=None, seed=0, aug_level=None, sampler=None, guidance=None, label=None,
            fidelity=0.0, samples=1, consistent=False, colour_lock=True, window_batch=None, overlap=OVERLAP,
            progress=lambda windows: None):
    """An image [h, w, 3] in [-1, 1] enlarged to `size` (H, W), at least its own: Enlarged.

    stages: super-resolution Stages, each over what the one before gives, the last again and again until the size is
    reached or passed; then the one resize makes it exact.
    steps, aug_level, sampler, guidance: of all stages or, a sequence, of each; else their configs'. label: a class's
    name or index for the stages that have classes, or None for no class.
    samples: K versions, each with noise of its own, the first what one sample gives. fidelity: F in [0, 1], the image
    being F mean + (1 - F) the first version, with the mean of the K versions, or of VERSIONS where K is 1 (of
    regressions all are the same).
    consistent: the image shrinks to the input, by projecting every x0 and, in [-1, 1], the end. colour_lock: its slow
    changes are the input's.
    window_batch: windows in a program, as many for each device, or as they have room for if None; it changes no
    picture. overlap: what neighbouring windows share at least, of a window. progress(n) is told whenever n windows have
    been denoised.
    """
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.shape[-1] != 3 or not np.all(np.isfinite(image)):
        raise ValueError(f"`image` (shape {image.shape}) must be [h, w, 3] of finite numbers")
    check_seed(seed)
    height, width = image.shape[:2]
    passes, padded = route(height, width, stages, size, steps=steps, aug_level=aug_level, sampler=sampler,
                           guidance=guidance, label=label, consistent=consistent, overlap=overlap)
    count, batches = _versions(passes, samples, fidelity), [_batches(one, window_batch) for one in passes]
    image = np.clip(image, -1, 1)
    (top, bottom), (left, right) = (((more - side) // 2, more - side - (more - side) // 2)
                                    for side, more in zip((height, width), padded))
    seen = np.pad(image, ((top, bottom), (left, right), (0, 0)), "symmetric")

    def version(number):
        x = seen
        for place, (one, (mesh, batch)) in enumerate(zip(passes, batches)):
            key = canvas_key(seed, one.stage, place, number)
            x = _diffuse(one, mesh, batch, x, key, seen if consistent else None, progress)
        scale = x.shape[0] // seen.shape[0]
        x = resize(x[top * scale : (top + height) * scale, left * scale : (left + width) * scale], size)
        if colour_lock:
            x = lock(x, image)
        return finish(x, image) if consistent else np.clip(x, -1, 1)

    if samples > 1:
        versions = np.empty((samples, *size, 3), np.float32)
        for number in range(samples):
            versions[number] = version(number)
        mean = versions.mean(axis=0)
        variance = sum(np.mean((one - mean) ** 2, axis=-1) for one in versions) / (samples - 1)
        return Enlarged(fidelity * mean + (1 - fidelity) * versions[0], versions, mean, np.sqrt(variance))
    result = version(0)
    if count > 1:
        mean = sum((version(number) for number in range(1, count)), result.copy()) / np.float32(count)
        result = fidelity * mean + (1 - fidelity) * result
    return Enlarged(result)

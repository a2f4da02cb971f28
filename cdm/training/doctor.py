"""`cdm doctor RUN`: is this run healthy? A verdict a line, and RUN/doctor.png to look at.

Losses are those of training, of the standardised picture (cdm.stage), on pictures the run was not trained on where its
source keeps some. The Wiener denoiser that a network must beat is the best linear one for pictures with the mean
and the power spectrum of training pictures, at every frequency f on its own:

    y0(f) = alpha P(f) / (alpha^2 P(f) + sigma^2) y_t(f),   P the mean power of y0 less the mean picture       (1)
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdm.data.manifest import resume
from cdm.data.pairs import open_data
from cdm.data.reading import read_evenly
from cdm.data.sources import EMBEDDED, open_source
from cdm.diffusion import process
from cdm.images import augment
from cdm.images.files import write_grid
from cdm.images.resize import resize
from cdm.training import state as states
from cdm.training.run import restored

TIMES = np.linspace(0.05, 0.95, 10)  # the middle of each bin
SHOWN, LEAST = (0.2, 0.4, 0.6, 0.8), 64  # noise levels of the picture, and pixels of a side in it
IMAGES, OVERFIT = 32, 4  # pictures that are looked at, and that are overfitted


class Verdict(NamedTuple):
    """One line: whether it is well, of what, and the numbers."""

    well: bool
    name: str
    text: str

    def __str__(self):
        return f"{'ok  ' if self.well else 'LOOK'}  {self.name}: {self.text}"


class _Pictures(NamedTuple):
    """A batch of real pictures with their noise, ready to be denoised at any time t."""

    x0: np.ndarray
    label: np.ndarray
    lowres: np.ndarray | None
    aug_logsnr: np.ndarray | None
    eps: np.ndarray


def _pictures(stage, source, count):
    """`count` pictures, evenly over the source, or all that it has."""
    records, image, *partners = read_evenly(source, count, stage.size, stage.partner_size)
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 4 * len(records)).reshape(4, -1)
    x0, lowres = jax.jit(stage.pair)(image, keys[0], keys[3], *partners)
    aug_logsnr = None
    if lowres is not None:
        level = jnp.full(len(records), stage.config.sample.aug_level)
        lowres, aug_logsnr = augment.noise(lowres, level, stage.augment_schedule, keys[1])
    eps = augment.normal(keys[2], x0.shape[1:])
    return _Pictures(*jax.device_get((x0, source.labels[records], lowres, aug_logsnr, eps)))


def examine(run, steps=100):
    """Yield Verdicts on the newest checkpoint of a run folder, and write RUN/doctor.png; `steps` are those of the
    overfitting."""
    stage, state = restored(run)
    if stage.config.train.teacher:
        raise ValueError(f"`run` (={run}) must be trained on pictures: this one learns from a teacher, at a few levels")
    source = resume(open_data(stage.config.data.source, stage.config.data.get("lowres")), run)
    # Low-res partners are of the training set.
    kept = stage.config.data.source == EMBEDDED and not stage.partner_size
    held_out = open_source(EMBEDDED, "heldout") if kept else source
    yield Verdict(True, "run", f"{stage.name} at {int(state['images'])} images, looked at with "
                  f"{'pictures it was not trained on' if held_out is not source else 'its own training pictures'}")
    skipped = int(state["skipped"])
    yield Verdict(skipped == 0, "steps", f"{skipped} were not finite and skipped")
    pictures, training = _pictures(stage, held_out, IMAGES), _pictures(stage, source, 4 * IMAGES)

    @jax.jit
    def loss(params, t, p):
        logsnr = jnp.broadcast_to(stage.schedule.logsnr(t), len(p.label))
        return stage.regress(params, p.x0, logsnr, p.eps, p.label, p.lowres, p.aug_logsnr)

    def losses(params, p):
        """[times, pictures]"""
        return np.array([loss(params, np.float32(t), p) for t in TIMES])

    right, raw = losses(state["ema"], pictures), losses(state["params"], pictures)
    yield Verdict(right.mean() <= 1.05 * raw.mean(), "average",
                  f"loss {right.mean():.4f} with the averaged parameters, {raw.mean():.4f} with the raw")
    over = right.mean(1) / _wiener(stage, pictures, training)
    worst = int(np.argmax(over))
    yield Verdict(over[worst] < 1, "noise levels",
                  f"loss over the Wiener denoiser's {' '.join(f'{r:.2f}' for r in over)}, clean to noise"
                  + ("" if over[worst] < 1 else f"; a linear filter wins at t = {TIMES[worst]:.2f}"))
    if len(stage.classes) > 1:
        yield _matters("class", right, losses(state["ema"], pictures._replace(
            label=(pictures.label + 1) % len(stage.classes))), "another class")
    if stage.lowres_size:
        yield _matters("low-res input", right, losses(state["ema"], pictures._replace(
            lowres=np.roll(pictures.lowres, 1, axis=0))), "another picture's")
    yield _look(stage, state["ema"], pictures, run)
    yield _overfit(stage, training, steps)


def _matters(name, right, wrong, other):
    """Whether losses [times, pictures] rise when an input is exchanged: on average by three standard errors, picture by
    picture at the same noise."""
    rise = (wrong - right).mean(0)
    error = rise.std(ddof=1) / len(rise) ** 0.5
    return Verdict(rise.mean() > 3 * error, name, f"loss {wrong.mean() / right.mean():.3f} times as high with {other}"
                   + ("" if rise.mean() > 3 * error else ": the network does not seem to hear it"))


def _wiener(stage, pictures, training):
    """The loss of eq. 1 at TIMES, [10]."""

    def standard(p, logsnr):
        x_t = process.q_sample(p.x0, logsnr, p.eps)
        y_t, logsnr_y, mean, std = stage.standardise(x_t, logsnr, p.lowres, p.aug_logsnr)
        return y_t, logsnr_y, (p.x0 - mean) / std

    out = []
    for t in TIMES:
        y0 = np.asarray(standard(training, np.float32(stage.schedule.logsnr(np.full(len(training.label), t))))[2])
        mean = y0.mean(0)
        power = np.mean(np.abs(np.fft.fft2(y0 - mean, axes=(1, 2), norm="ortho")) ** 2, axis=0)
        logsnr = np.float32(stage.schedule.logsnr(np.full(len(pictures.label), t)))
        y_t, logsnr_y, y0 = (np.asarray(part) for part in standard(pictures, logsnr))
        alpha, sigma = (np.asarray(part) for part in process.alpha_sigma(logsnr_y, y_t))
        gain = alpha * power / (alpha**2 * power + sigma**2)
        filtered = np.fft.ifft2(gain * np.fft.fft2(y_t - alpha * mean, axes=(1, 2)), axes=(1, 2)).real + mean
        kind = stage.config.diffusion.target
        answer = process.target(kind, filtered, (y_t - alpha * filtered) / sigma, logsnr_y)
        out.append(float(np.mean(process.simple_loss(kind, answer, y0, pictures.eps, logsnr_y))))
    return np.array(out)


def _look(stage, params, p, run):
    """Write the picture: real, then for each level of SHOWN what was seen and what was made of it. Small pictures are
    shown with larger pixels."""
    p = _Pictures(*(None if part is None else part[:: max(len(part) // 8, 1)][:8] for part in p))
    rows, gains = [p.x0], []
    if p.lowres is not None:
        rows.append(np.asarray(resize(p.lowres, p.x0.shape[1:3])))

    @jax.jit
    def denoise(t):
        logsnr = jnp.broadcast_to(stage.schedule.logsnr(t), len(p.label))
        x_t = process.q_sample(p.x0, logsnr, p.eps)
        return x_t, stage.denoiser(params, p.label, p.lowres, p.aug_logsnr)(x_t, logsnr).x0

    for t in SHOWN:
        x_t, x0 = denoise(np.float32(t))
        rows += [x_t, x0]
        alpha, sigma = process.alpha_sigma(stage.schedule.logsnr(np.float32(t)))
        # The best single gain for pictures of unit power: what doing nothing is worth.
        nothing = np.mean((alpha * np.asarray(x_t) - p.x0) ** 2)
        gains.append(10 * np.log10(nothing / np.mean((np.asarray(x0) - p.x0) ** 2)))
    grid, pixel = np.stack([np.asarray(row) for row in rows]), max(LEAST // stage.size, 1)
    write_grid(f"{run}/doctor.png", grid.repeat(pixel, axis=2).repeat(pixel, axis=3))
    return Verdict(min(gains) > 0, "denoising", "PSNR gained from t = " + ", ".join(
        f"{t}: {gain:+.1f} dB" for t, gain in zip(SHOWN, gains)) + f"; look at {run}/doctor.png")


def _overfit(stage, p, steps):
    """Train a fresh network on a few pictures at fixed noise: whatever learns at all learns those."""
    p = _Pictures(*(None if part is None else part[:OVERFIT] for part in p))
    t = (np.arange(len(p.label)) + 0.5) / len(p.label)
    logsnr = np.float32(stage.schedule.logsnr(t))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry):
        params, moments = carry
        loss, slope = jax.value_and_grad(lambda params: jnp.mean(stage.regress(
            params, p.x0, logsnr, p.eps, p.label, p.lowres, p.aug_logsnr)))(params)
        updates, moments = states.optimizer(stage.config).update(slope, moments, params)
        rate = stage.config.train.learning_rate
        return (jax.tree.map(lambda p, u: p - rate * u, params, updates), moments), loss

    params = jax.jit(stage.init)()
    carry, seen = (params, states.optimizer(stage.config).init(params)), []
    for _ in range(steps):
        carry, loss = step(carry)
        seen.append(float(loss))
    return Verdict(seen[-1] < 0.5 * seen[0], "overfitting", f"a fresh network's loss on {len(p.label)} pictures goes "
                   f"from {seen[0]:.3f} to {seen[-1]:.3f} in {steps} steps of the config's rate")


def doctor(run, steps=100):
    """Print the verdicts on a run; returns whether all is well."""
    well = True
    for verdict in examine(run, steps):
        print(verdict, flush=True)
        well = well and verdict.well
    return well

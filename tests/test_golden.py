"""Our samplers against the schedulers of `diffusers`, an independent implementation: see golden/make.py."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm.diffusion import grids, process, samplers, schedules

# case: sampler, its options, what the model predicts
CASES = {
    "ddpm_small": ("ancestral", dict(variance="small"), "eps"),
    "ddpm_large": ("ancestral", dict(variance="large"), "eps"),
    "ddim_eta_0": ("ddim", dict(eta=0.0), "eps"),
    "ddim_eta_0.5": ("ddim", dict(eta=0.5), "eps"),
    "ddim_v": ("ddim", dict(eta=0.0), "v"),
    "dpmpp_2m": ("dpmpp_2m", {}, "eps"),
}


def load(case):
    """The golden file, and the logSNR knots of its run: the table's entries at its timesteps, then the clean image."""
    golden = dict(np.load(pathlib.Path(__file__).with_name("golden") / f"{case}.npz"))
    return golden, np.append(schedules.LinearBeta().table[golden["timesteps"]], np.inf)


def model(x, xp=np):
    return 0.3 * x + 0.1 * xp.sin(x)


def clean(target, x, output, logsnr):
    """x0 in float64."""
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
    return (x - sigma * output) / alpha if target == "eps" else alpha * x - sigma * output


def difference(ours, theirs):
    """The worst error, relative to the largest value of the same state."""
    axes = tuple(range(1, theirs.ndim))
    return np.max(np.abs(ours - theirs) / np.max(np.abs(theirs), axis=axes, keepdims=True))


def single_steps(case):
    """Every step from the recorded state before it."""
    sampler, options, target = CASES[case]
    golden, knots = load(case)
    x0 = np.stack([clean(target, *step) for step in zip(golden["x"], golden["output"], knots[:-1])])
    previous = np.concatenate([np.zeros_like(x0[:1]), x0[:-1]])
    a, b, c, d = samplers.SAMPLERS[sampler](knots, **options)[1].T[:4, ..., None, None, None, None]
    return difference(a * golden["x"][:-1] + b * x0 + c * previous + d * golden["noise"], golden["x"][1:])


def trajectory(case):
    """The whole run from its first state, with our own evaluations of the model."""
    sampler, options, target = CASES[case]
    golden, knots = load(case)
    x, previous, states = golden["x"][0], 0, []
    for (a, b, c, d), logsnr, noise in zip(samplers.SAMPLERS[sampler](knots, **options)[1][:, :4], knots, golden["noise"]):
        x0 = clean(target, x, model(x), logsnr)
        x, previous = a * x + b * x0 + c * previous + d * noise, x0
        states.append(x)
    return difference(np.stack(states), golden["x"][1:])


@pytest.mark.parametrize("case", CASES)
def test_each_single_step_equals_diffusers(case):
    assert single_steps(case) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_the_whole_trajectory_equals_diffusers(case):
    assert trajectory(case) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_the_float32_sampler_equals_diffusers(case):
    sampler, options, target = CASES[case]
    golden, knots = load(case)
    noises = jnp.asarray(golden["noise"], jnp.float32)

    def denoise(x, logsnr):
        return process.prediction(target, model(x, jnp), x, logsnr)

    plan = samplers.plan(sampler, knots, **options)
    step = jax.jit(lambda i, state: samplers.step(plan, denoise, lambda i: noises[i], i, state))
    x = jnp.asarray(golden["x"][0], jnp.float32)
    state, states = (x, jnp.zeros_like(x)), []
    for i in range(len(knots) - 1):
        state = step(i, state)
        states.append(state[0])
    assert difference(np.stack(states), golden["x"][1:]) < 1e-4


def test_trailing_timesteps_are_our_uniform_grid():
    _, knots = load("ddim_eta_0")
    np.testing.assert_allclose(grids.grid(schedules.LinearBeta(), len(knots) - 1), knots, rtol=1e-12)

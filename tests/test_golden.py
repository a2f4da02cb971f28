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
    "ddpm_learned": ("ancestral", dict(variance="learned"), "eps"),
    "ddim_eta_0": ("ddim", dict(eta=0.0), "eps"),
    "ddim_eta_0.5": ("ddim", dict(eta=0.5), "eps"),
    "ddim_v": ("ddim", dict(eta=0.0), "v"),
    "dpmpp_2m": ("dpmpp_2m", {}, "eps"),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", {}, "eps"),
    "heun": ("heun", {}, "x0"),
    "euler": ("ddim", {}, "x0"),
    "edm_2m": ("dpmpp_2m", {}, "x0"),
    "edm_2m_sde": ("dpmpp_2m_sde", {}, "x0"),
}


def load(case):
    """The golden file, and the knots of its run: the table's entries at its timesteps, or the levels that the model was
    asked at, then the clean image."""
    golden = dict(np.load(pathlib.Path(__file__).with_name("golden") / f"{case}.npz"))
    levels = schedules.LinearBeta().table[golden["timesteps"]] if "timesteps" in golden else np.unique(golden["logsnr"])
    return golden, np.append(levels, np.inf)


def rows(case, knots):
    sampler, options, _ = CASES[case]
    return samplers.SAMPLERS[sampler](knots, **options)


def model(x, xp=np):
    return 0.3 * x + 0.1 * xp.sin(x)


def fraction(case, x, xp=np):
    """Of the variance that the model has learned, if it has."""
    return (xp.sin(2 * x) + 1) / 2 if case == "ddpm_learned" else None


def clean(target, x, output, logsnr):
    """x0 in float64."""
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
    return {"eps": lambda: (x - sigma * output) / alpha, "v": lambda: alpha * x - sigma * output,
            "x0": lambda: output}[target]()


def after(case, row, x, x0, previous, noise):
    """The state after a row, in float64."""
    a, b, c, d, e = row
    return a * x + b * x0 + c * previous + d * np.exp(e * (0 if e == 0 else fraction(case, x))) * noise


def difference(ours, theirs):
    """The worst error, relative to the largest value of the same state."""
    axes = tuple(range(1, theirs.ndim))
    return np.max(np.abs(ours - theirs) / np.max(np.abs(theirs), axis=axes, keepdims=True))


def single_steps(case):
    """Every step from the recorded state before it."""
    golden, knots = load(case)
    levels, coefficients = rows(case, knots)
    x0 = [clean(CASES[case][2], *step) for step in zip(golden["x"], golden["output"], levels)]
    previous = [np.zeros_like(x0[0]), *x0[:-1]]
    ours = [after(case, *step) for step in zip(coefficients, golden["x"], x0, previous, golden["noise"])]
    return difference(np.stack(ours), golden["x"][1:])


def trajectory(case):
    """The whole run from its first state, with our own evaluations of the model."""
    golden, knots = load(case)
    x, previous, states = golden["x"][0], 0, []
    for logsnr, row, noise in zip(*rows(case, knots), golden["noise"]):
        x0 = clean(CASES[case][2], x, model(x), logsnr)
        x, previous = after(case, row, x, x0, previous, noise), x0
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
        return process.prediction(target, model(x, jnp), x, logsnr)._replace(fraction=fraction(case, x, jnp))

    plan = samplers.plan(sampler, knots, **options)
    step = jax.jit(lambda i, state: samplers.step(plan, denoise, lambda i: noises[i], i, state))
    x = jnp.asarray(golden["x"][0], jnp.float32)
    state, states = (x, jnp.zeros_like(x)), []
    for i in range(int(plan.steps)):
        state = step(i, state)
        states.append(state[0])
    assert difference(np.stack(states), golden["x"][1:]) < 1e-4


def test_trailing_timesteps_are_our_uniform_grid():
    _, knots = load("ddim_eta_0")
    np.testing.assert_allclose(grids.grid(schedules.LinearBeta(), len(knots) - 1), knots, rtol=1e-12)

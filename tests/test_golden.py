"""Our samplers against the schedulers of `diffusers`, an independent implementation: see golden/make.py.

    python tests/test_golden.py        prints the table of docs/sampling.md
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm.diffusion import grids, guidance, process, samplers, schedules

GOLDEN = np.load(pathlib.Path(__file__).with_name("golden") / "diffusers.npz")
DOCS = pathlib.Path(__file__).parent.parent / "docs" / "sampling.md"
DDPM, DDIM, DPM, EULER, HEUN = (f"{name}Scheduler" for name in ("DDPM", "DDIM", "DPMSolverMultistep", "EulerDiscrete",
                                                                "HeunDiscrete"))
EDM, EDM_EULER, SDE = "EDMDPMSolverMultistepScheduler", "EDMEulerScheduler", "algorithm_type=sde-dpmsolver++"
SMALL, EDM_V = dict(variance="small"), "v, data_std 0.5"
# case: (their scheduler, its options, our sampler, its options, what the model predicts, threshold)
CASES = {
    "ddpm_small": (DDPM, "variance_type=fixed_small", "ancestral", SMALL, "eps", None),
    "ddpm_small_log": (DDPM, "variance_type=fixed_small_log", "ancestral", SMALL, "eps", None),
    "ddpm_large": (DDPM, "variance_type=fixed_large", "ancestral", dict(variance="large"), "eps", None),
    "ddpm_learned": (DDPM, "variance_type=learned_range", "ancestral", dict(variance="learned"), "eps", None),
    "ddpm_v": (DDPM, "prediction_type=v_prediction", "ancestral", SMALL, "v", None),
    "ddpm_x0": (DDPM, "prediction_type=sample", "ancestral", SMALL, "x0", None),
    "ddpm_cosine": (DDPM, "beta_schedule=squaredcos_cap_v2", "ancestral", SMALL, "eps", None),
    "ddpm_cosine_learned": (DDPM, "squaredcos_cap_v2, learned_range", "ancestral", dict(variance="learned"), "eps",
                            None),
    "ddpm_static": (DDPM, "clip_sample=True", "ancestral", SMALL, "eps", "static"),
    "ddpm_dynamic": (DDPM, "thresholding=True", "ancestral", SMALL, "eps", "dynamic"),
    "ddim_eta_0": (DDIM, "eta=0", "ddim", dict(eta=0.0), "eps", None),
    "ddim_eta_0.5": (DDIM, "eta=0.5", "ddim", dict(eta=0.5), "eps", None),
    "ddim_eta_1": (DDIM, "eta=1", "ddim", dict(eta=1.0), "eps", None),
    "ddim_v": (DDIM, "prediction_type=v_prediction", "ddim", dict(eta=0.0), "v", None),
    "ddim_x0": (DDIM, "prediction_type=sample", "ddim", dict(eta=0.0), "x0", None),
    "ddim_cosine": (DDIM, "squaredcos_cap_v2, v_prediction", "ddim", dict(eta=0.0), "v", None),
    "ddim_static": (DDIM, "clip_sample=True, use_clipped_model_output=True", "ddim", dict(eta=0.0), "eps", "static"),
    "ddim_dynamic": (DDIM, "thresholding=True, use_clipped_model_output=True", "ddim", dict(eta=0.0), "eps", "dynamic"),
    "dpmpp_1": (DPM, "solver_order=1", "ddim", dict(eta=0.0), "eps", None),
    "dpmpp_2m": (DPM, "solver_order=2", "dpmpp_2m", {}, "eps", None),
    "dpmpp_2m_v": (DPM, "prediction_type=v_prediction", "dpmpp_2m", {}, "v", None),
    "dpmpp_2m_x0": (DPM, "prediction_type=sample", "dpmpp_2m", {}, "x0", None),
    "dpmpp_2m_cosine": (DPM, "squaredcos_cap_v2, v_prediction", "dpmpp_2m", {}, "v", None),
    "dpmpp_2m_dynamic": (DPM, "thresholding=True", "dpmpp_2m", {}, "eps", "dynamic"),
    "dpmpp_2m_karras": (DPM, "use_karras_sigmas=True", "dpmpp_2m", {}, "eps", None),
    "dpmpp_2m_exponential": (DPM, "use_exponential_sigmas=True", "dpmpp_2m", {}, "eps", None),
    "dpmpp_2m_lu": (DPM, "use_lu_lambdas=True", "dpmpp_2m", {}, "eps", None),
    "dpmpp_1_sde": (DPM, f"{SDE}, solver_order=1", "ancestral", SMALL, "eps", None),
    "dpmpp_2m_sde": (DPM, SDE, "dpmpp_2m_sde", {}, "eps", None),
    "dpmpp_2m_sde_v": (DPM, f"{SDE}, v_prediction", "dpmpp_2m_sde", {}, "v", None),
    "euler": (EULER, "prediction_type=sample", "ddim", {}, "x0", None),
    "euler_eps": (EULER, "prediction_type=epsilon", "ddim", {}, "eps", None),
    "euler_v": (EULER, "prediction_type=v_prediction", "ddim", {}, "v", None),
    "heun": (HEUN, "prediction_type=sample", "heun", {}, "x0", None),
    "heun_eps": (HEUN, "prediction_type=epsilon", "heun", {}, "eps", None),
    "heun_v": (HEUN, "prediction_type=v_prediction", "heun", {}, "v", None),
    "heun_static": (HEUN, "clip_sample=True", "heun", {}, "eps", "static"),
    "edm_euler": (EDM_EULER, "sigma_schedule=karras", "ddim", {}, "x0", None),
    "edm_euler_v": (EDM_EULER, "prediction_type=v_prediction", "ddim", {}, EDM_V, None),
    "edm_1": (EDM, "solver_order=1", "ddim", {}, "x0", None),
    "edm_1_sde": (EDM, f"{SDE}, solver_order=1", "ancestral", SMALL, "x0", None),
    "edm_2m": (EDM, "solver_order=2", "dpmpp_2m", {}, "x0", None),
    "edm_2m_v": (EDM, "prediction_type=v_prediction", "dpmpp_2m", {}, EDM_V, None),
    "edm_2m_sde": (EDM, SDE, "dpmpp_2m_sde", {}, "x0", None),
}
every_case = pytest.mark.parametrize("case", CASES)


def load(case):
    """The arrays of a case, and the knots of its run: the table's entries at its timesteps, or the levels that the
    model was asked at, then the clean image."""
    golden = {key.split("/")[1]: GOLDEN[key] for key in GOLDEN.files if key.startswith(f"{case}/")}
    schedule = schedules.DiscreteCosine(1000) if "cosine" in case else schedules.LinearBeta()
    levels = schedule.table[golden["timesteps"]] if "timesteps" in golden else np.unique(golden["logsnr"])
    return golden, np.append(levels, np.inf)


def rows(case, knots):
    _, _, sampler, options, *_ = CASES[case]
    return samplers.SAMPLERS[sampler](knots, **options)


def model(x, xp=np):
    return 0.3 * x + 0.1 * xp.sin(x)


def fraction(case, x, xp=np):
    """Of the variance that the model has learned, if it has."""
    return (xp.sin(2 * x) + 1) / 2 if "learned" in case else None


def clean(case, x, output, logsnr):
    """x0 in float64."""
    *_, target, threshold = CASES[case]
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
    total = np.sqrt(0.25 * alpha**2 + sigma**2)  # of v of standardised pictures
    x0 = {"eps": lambda: (x - sigma * output) / alpha, "v": lambda: alpha * x - sigma * output,
          EDM_V: lambda: 0.5 * (0.5 * alpha / total * x - sigma * output) / total, "x0": lambda: output}[target]()
    if threshold is None:
        return x0
    limit = 1.0
    if threshold == "dynamic":
        limit = np.maximum(np.percentile(np.abs(x0), 99.5, axis=(1, 2, 3), keepdims=True), 1)
    return np.clip(x0, -limit, limit) / limit


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
    x0 = [clean(case, *step) for step in zip(golden["x"], golden["output"], levels)]
    previous = [np.zeros_like(x0[0]), *x0[:-1]]
    ours = [after(case, *step) for step in zip(coefficients, golden["x"], x0, previous, golden["noise"])]
    return difference(np.stack(ours), golden["x"][1:])


def trajectory(case):
    """The whole run from its first state, with our own evaluations of the model."""
    golden, knots = load(case)
    x, previous, states = golden["x"][0], 0, []
    for logsnr, row, noise in zip(*rows(case, knots), golden["noise"]):
        x0 = clean(case, x, model(x), logsnr)
        x, previous = after(case, row, x, x0, previous, noise), x0
        states.append(x)
    return difference(np.stack(states), golden["x"][1:])


def float32(case):
    """The whole run by samplers.step."""
    _, _, sampler, options, target, threshold = CASES[case]
    golden, knots = load(case)
    noises = jnp.asarray(golden["noise"], jnp.float32)

    def denoise(x, logsnr):
        if target == EDM_V:
            y0 = process.prediction("v", model(x, jnp), *process.standardise(x, logsnr, 0.0, 0.5)).x0
            return process.prediction("x0", 0.5 * y0, x, logsnr)
        return process.prediction(target, model(x, jnp), x, logsnr)._replace(fraction=fraction(case, x, jnp))

    if threshold:
        denoise = {"static": guidance.static_threshold, "dynamic": guidance.dynamic_threshold}[threshold](denoise)
    plan = samplers.plan(sampler, knots, **options)
    step = jax.jit(lambda i, state: samplers.step(plan, denoise, lambda i: noises[i], i, state))
    x = jnp.asarray(golden["x"][0], jnp.float32)
    state, states = (x, jnp.zeros_like(x)), []
    for i in range(int(plan.steps)):
        state = step(i, state)
        states.append(state[0])
    return difference(np.stack(states), golden["x"][1:])


@every_case
def test_each_single_step_equals_diffusers(case):
    assert single_steps(case) < 1e-6


@every_case
def test_the_whole_trajectory_equals_diffusers(case):
    assert trajectory(case) < 1e-6


@every_case
def test_the_float32_sampler_equals_diffusers(case):
    assert float32(case) < 1e-4


def test_trailing_timesteps_are_our_uniform_grid():
    _, knots = load("ddim_eta_0")
    np.testing.assert_allclose(grids.grid(schedules.LinearBeta(), len(knots) - 1), knots, rtol=1e-12)


@pytest.mark.parametrize("theirs, ours", [("karras", "rho"), ("exponential", "logsnr"), ("lu", "logsnr")])
def test_their_grids_of_levels_are_ours(theirs, ours):
    schedule, (_, knots) = schedules.LinearBeta(), load(f"dpmpp_2m_{theirs}")
    ends = np.exp(-np.array([schedule.logsnr_max, schedule.logsnr_min]) / 2)
    np.testing.assert_allclose(grids.grid(schedule, len(knots) - 1, ours, sigmas=ends), knots, rtol=1e-9, atol=1e-9)


def line(case):
    """A case's line of the table, without its numbers."""
    scheduler, theirs, sampler, options, target, threshold = CASES[case]
    ours = [f"{name} {value}" for name, value in options.items()] + [f"{threshold} threshold"] * bool(threshold)
    return f"| {scheduler} | {theirs} | {', '.join([sampler, *ours])} | {target} |"


@every_case
def test_the_table_has_the_worst_differences(case):
    row, = (row for row in DOCS.read_text().splitlines() if row.startswith(line(case)))
    exact, rounded = (float(value) for value in row.split("|")[-3:-1])
    assert max(single_steps(case), trajectory(case)) <= 2 * exact + 1e-13  # another processor rounds otherwise
    assert float32(case) <= 3 * rounded


if __name__ == "__main__":
    for case in CASES:
        print(line(case), f"{max(single_steps(case), trajectory(case)):.0e} | {float32(case):.0e} |")

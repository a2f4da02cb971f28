"""Makes the golden files: what the schedulers of `diffusers`, an independent implementation, do step by step.

    pip install '.[reference]'
    python tests/golden/make.py

diffusers.npz holds <case>/<array> of each case: a short sampling trajectory over a DDPM schedule of 1000 steps (beta
linear from 1e-4 to 0.02, or the cosine) of a model that anyone can evaluate, output = 0.3 x + 0.1 sin(x), with
everything that went in and came out:

    timesteps [n]           entries of the table of betas, falling; the step after the last makes the clean image
    x [n + 1, 2, 1, 2, 2]   the state before step i, and the result
    output [n, ...]         the model's output in step i
    noise [n, ...]          the standard normal that step i was given (zero where it takes none)

Of grids that are not of the table's entries there is `logsnr` [n] instead of timesteps, the levels that the model was
asked at. Schedulers that keep x / alpha have EDM's (Karras et al. 2022, eq. 5); their x is brought to variance
preserving form, and where the model does not say eps or v, it is x0 = 0.3 x + 0.1 sin(x). EDM's own take v for -F of its
preconditioning.

The schedulers are built in float32; their tables are replaced by the same in float64. What is left is that
DPMSolverMultistepScheduler and those of Euler's method round the state to float32 in each step.
"""

import pathlib

import numpy as np
import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EDMDPMSolverMultistepScheduler,
                       EDMEulerScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler)

STEPS = 10
SHAPE = (2, 1, 2, 2)
LINEAR = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
COSINE = dict(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
V, X0 = dict(prediction_type="v_prediction"), dict(prediction_type="sample")
DYNAMIC = dict(thresholding=True, sample_max_value=1e9)


def float64(scheduler):
    """The scheduler with its tables in float64, ready for STEPS steps."""
    scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    if scheduler.config.beta_schedule == "squaredcos_cap_v2":
        abar = torch.cos((torch.arange(1001, dtype=torch.float64) / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
        scheduler.betas = (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    scheduler.set_timesteps(STEPS)
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        abar, config = scheduler.alphas_cumprod, scheduler.config
        table = torch.sqrt((1 - abar) / abar)
        falling = table.flip(0).numpy()
        if config.use_karras_sigmas:
            sigmas = torch.from_numpy(scheduler._convert_to_karras(falling, STEPS))
        elif config.use_exponential_sigmas:
            sigmas = torch.from_numpy(scheduler._convert_to_exponential(falling, STEPS))
        elif config.use_lu_lambdas:
            sigmas = torch.from_numpy(np.exp(scheduler._convert_to_lu(np.log(falling), STEPS)))
        else:
            sigmas = table[scheduler.timesteps]
        scheduler.sigmas = torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])
    return scheduler


def trajectory(scheduler, noisy, learned=False, **options):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states, outputs, noises = [x], [], []
    for i, t in enumerate(scheduler.timesteps):
        output = 0.3 * x + 0.1 * torch.sin(x)
        noise = torch.zeros(SHAPE, dtype=torch.float64)
        if noisy:
            # The scheduler draws the same from a generator of the same seed.
            noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 + i), dtype=torch.float64)
            options["generator"] = torch.Generator().manual_seed(100 + i)
        # Of a learned variance the model says r = sin(2 x) in further channels.
        answer = torch.cat([output, torch.sin(2 * x)], dim=1) if learned else output
        x = scheduler.step(answer, t, x, **options).prev_sample
        outputs.append(output)
        noises.append(noise)
        states.append(x)
    assert x.dtype == torch.float64
    config = scheduler.config
    found = dict(x=torch.stack(states).numpy(), output=torch.stack(outputs).numpy(), noise=torch.stack(noises).numpy())
    if any(config.get(f"use_{kind}") for kind in ("karras_sigmas", "exponential_sigmas", "lu_lambdas")):
        return dict(logsnr=(-2 * torch.log(scheduler.sigmas[:-1])).numpy(), **found)
    return dict(timesteps=scheduler.timesteps.numpy(), **found)


def levels(scheduler, twice=False):
    """The scheduler set to EDM's grid in float64, and the levels that the model is asked at."""
    scheduler.set_timesteps(STEPS)
    i = torch.arange(STEPS, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / (STEPS - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    asked = torch.cat([sigma[:1], sigma[1:].repeat_interleave(2)]) if twice else sigma
    scheduler.sigmas = torch.cat([asked, torch.zeros(1, dtype=torch.float64)])
    scheduler.timesteps = torch.arange(len(asked), 0, -1, dtype=torch.float64)  # names of the rows
    scheduler.is_scale_input_called = True  # the model is given what it wants by us
    return scheduler, asked


def exploding(made, edm=False, noisy=False):
    scheduler, asked = made
    # A state lies at the level that the next row is asked at; Heun's are asked at s_0, s_1, s_1, s_2, s_2, ...
    after = torch.cat([asked[1:], torch.zeros(1, dtype=torch.float64)])
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states, outputs, noises = [x], [], []
    scaled = x * (1 + asked[0] ** 2) ** 0.5
    for i, (level, following) in enumerate(zip(asked, after)):
        output = 0.3 * x + 0.1 * torch.sin(x)
        answer, noise, options = output, torch.zeros(SHAPE, dtype=torch.float64), {}
        if edm and scheduler.config.prediction_type != "v_prediction":  # x0 = c_skip x + c_out F with sigma_data = 0.5
            total = level**2 + 0.25
            answer = (output - 0.25 / total * scaled) * total**0.5 / (0.5 * level)
        if noisy:
            noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 + i), dtype=torch.float64)
            options["generator"] = torch.Generator().manual_seed(100 + i)
        scaled = scheduler.step(answer, scheduler.timesteps[i], scaled, **options).prev_sample
        x = scaled / (1 + following**2) ** 0.5
        outputs.append(output)
        noises.append(noise)
        states.append(x)
    return dict(logsnr=(-2 * torch.log(asked)).numpy(), x=torch.stack(states).numpy(),
                output=torch.stack(outputs).numpy(), noise=torch.stack(noises).numpy())


def main():
    # "leading" ends at entry 0, where DDPM adds no noise, as it should; "trailing" starts at the noisiest entry.
    def ddpm(variance="fixed_small", schedule=LINEAR, **options):
        return float64(DDPMScheduler(**schedule, variance_type=variance, timestep_spacing="leading",
                                     **{"clip_sample": False, **options}))

    def ddim(schedule=LINEAR, **options):
        return float64(DDIMScheduler(**schedule, set_alpha_to_one=True, timestep_spacing="trailing",
                                     **{"clip_sample": False, **options}))

    def dpm(algorithm="dpmsolver++", schedule=LINEAR, order=2, **options):
        return float64(DPMSolverMultistepScheduler(**schedule, algorithm_type=algorithm, solver_order=order,
                                                   solver_type="midpoint", final_sigmas_type="zero",
                                                   timestep_spacing="trailing", **options))

    sde, clipped = "sde-dpmsolver++", dict(eta=0.0, use_clipped_model_output=True)
    cases = {
        "ddpm_small": trajectory(ddpm(), noisy=True),
        "ddpm_small_log": trajectory(ddpm("fixed_small_log"), noisy=True),
        "ddpm_large": trajectory(ddpm("fixed_large"), noisy=True),
        "ddpm_learned": trajectory(ddpm("learned_range"), noisy=True, learned=True),
        "ddpm_v": trajectory(ddpm(**V), noisy=True),
        "ddpm_x0": trajectory(ddpm(**X0), noisy=True),
        "ddpm_cosine": trajectory(ddpm(schedule=COSINE), noisy=True),
        "ddpm_cosine_learned": trajectory(ddpm("learned_range", COSINE), noisy=True, learned=True),
        "ddpm_static": trajectory(ddpm(clip_sample=True), noisy=True),
        "ddpm_dynamic": trajectory(ddpm(**DYNAMIC), noisy=True),
        "ddim_eta_0": trajectory(ddim(), noisy=False, eta=0.0),
        "ddim_eta_0.5": trajectory(ddim(), noisy=True, eta=0.5),
        "ddim_eta_1": trajectory(ddim(), noisy=True, eta=1.0),
        "ddim_v": trajectory(ddim(**V), noisy=False, eta=0.0),
        "ddim_x0": trajectory(ddim(**X0), noisy=False, eta=0.0),
        "ddim_cosine": trajectory(ddim(COSINE, **V), noisy=False, eta=0.0),
        "ddim_static": trajectory(ddim(clip_sample=True), noisy=False, **clipped),
        "ddim_dynamic": trajectory(ddim(**DYNAMIC), noisy=False, **clipped),
        "dpmpp_1": trajectory(dpm(order=1), noisy=False),
        "dpmpp_2m": trajectory(dpm(), noisy=False),
        "dpmpp_2m_v": trajectory(dpm(**V), noisy=False),
        "dpmpp_2m_x0": trajectory(dpm(**X0), noisy=False),
        "dpmpp_2m_cosine": trajectory(dpm(schedule=COSINE, **V), noisy=False),
        "dpmpp_2m_dynamic": trajectory(dpm(**DYNAMIC), noisy=False),
        "dpmpp_2m_karras": trajectory(dpm(use_karras_sigmas=True), noisy=False),
        "dpmpp_2m_exponential": trajectory(dpm(use_exponential_sigmas=True), noisy=False),
        "dpmpp_2m_lu": trajectory(dpm(use_lu_lambdas=True), noisy=False),
        "dpmpp_1_sde": trajectory(dpm(sde, order=1), noisy=True),
        "dpmpp_2m_sde": trajectory(dpm(sde), noisy=True),
        "dpmpp_2m_sde_v": trajectory(dpm(sde, **V), noisy=True),
        "euler": exploding(levels(EulerDiscreteScheduler(**X0))),
        "euler_eps": exploding(levels(EulerDiscreteScheduler())),
        "euler_v": exploding(levels(EulerDiscreteScheduler(**V))),
        "heun": exploding(levels(HeunDiscreteScheduler(**X0), twice=True)),
        "heun_eps": exploding(levels(HeunDiscreteScheduler(), twice=True)),
        "heun_v": exploding(levels(HeunDiscreteScheduler(**V), twice=True)),
        "heun_static": exploding(levels(HeunDiscreteScheduler(clip_sample=True), twice=True)),
        "edm_euler": exploding(levels(EDMEulerScheduler()), edm=True),
        "edm_euler_v": exploding(levels(EDMEulerScheduler(**V)), edm=True),
        "edm_1": exploding(levels(EDMDPMSolverMultistepScheduler(solver_order=1)), edm=True),
        "edm_1_sde": exploding(levels(EDMDPMSolverMultistepScheduler(algorithm_type=sde, solver_order=1)), edm=True,
                               noisy=True),
        "edm_2m": exploding(levels(EDMDPMSolverMultistepScheduler()), edm=True),
        "edm_2m_v": exploding(levels(EDMDPMSolverMultistepScheduler(**V)), edm=True),
        "edm_2m_sde": exploding(levels(EDMDPMSolverMultistepScheduler(algorithm_type=sde)), edm=True, noisy=True),
    }
    np.savez_compressed(pathlib.Path(__file__).with_name("diffusers.npz"), **{
        f"{name}/{key}": value for name, case in cases.items() for key, value in case.items()})


if __name__ == "__main__":
    main()

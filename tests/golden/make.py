"""Makes the golden files: what the schedulers of `diffusers`, an independent implementation, do step by step.

    pip install '.[reference]'
    python tests/golden/make.py

Each <case>.npz is one short sampling trajectory over the DDPM schedule (beta linear from 1e-4 to 0.02 in 1000 steps)
of a model that anyone can evaluate, output = 0.3 x + 0.1 sin(x), with everything that went in and came out:

    timesteps [n]           entries of the table of betas, falling; the step after the last makes the clean image
    x [n + 1, 2, 1, 2, 2]   the state before step i, and the result
    output [n, ...]         the model's output in step i
    noise [n, ...]          the standard normal that step i was given (zero where it takes none)

Of schedulers that keep x / alpha, over EDM's grid of levels (Karras et al. 2022, eq. 5), `logsnr` [n] are those the model was
asked at, and x is brought to variance preserving form; there the model is x0 = 0.3 x + 0.1 sin(x).

The schedulers are built in float32; their tables are replaced by the same in float64. What is left is that
DPMSolverMultistepScheduler rounds the state to float32 in each step.
"""

import pathlib

import numpy as np
import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EDMDPMSolverMultistepScheduler,
                       EulerDiscreteScheduler, HeunDiscreteScheduler)

STEPS = 10
SHAPE = (2, 1, 2, 2)
COMMON = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")


def float64(scheduler):
    """The scheduler with its tables in float64, ready for STEPS steps."""
    scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    scheduler.set_timesteps(STEPS)
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        abar = scheduler.alphas_cumprod[scheduler.timesteps]
        scheduler.sigmas = torch.cat([torch.sqrt((1 - abar) / abar), torch.zeros(1, dtype=torch.float64)])
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
    return dict(timesteps=scheduler.timesteps.numpy(), x=torch.stack(states).numpy(),
                output=torch.stack(outputs).numpy(), noise=torch.stack(noises).numpy())


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
        x0 = 0.3 * x + 0.1 * torch.sin(x)
        answer, noise, options = x0, torch.zeros(SHAPE, dtype=torch.float64), {}
        if edm:  # x0 = c_skip x + c_out F with sigma_data = 0.5
            total = level**2 + 0.25
            answer = (x0 - 0.25 / total * scaled) * total**0.5 / (0.5 * level)
        if noisy:
            noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 + i), dtype=torch.float64)
            options["generator"] = torch.Generator().manual_seed(100 + i)
        scaled = scheduler.step(answer, scheduler.timesteps[i], scaled, **options).prev_sample
        x = scaled / (1 + following**2) ** 0.5
        outputs.append(x0)
        noises.append(noise)
        states.append(x)
    return dict(logsnr=(-2 * torch.log(asked)).numpy(), x=torch.stack(states).numpy(),
                output=torch.stack(outputs).numpy(), noise=torch.stack(noises).numpy())


def main():
    # "leading" ends at entry 0, where DDPM adds no noise, as it should; "trailing" starts at the noisiest entry.
    def ddpm(variance):
        return float64(DDPMScheduler(**COMMON, variance_type=variance, clip_sample=False, timestep_spacing="leading"))

    def ddim(target="epsilon"):
        return float64(DDIMScheduler(**COMMON, prediction_type=target, clip_sample=False, set_alpha_to_one=True,
                                     timestep_spacing="trailing"))

    def dpm(algorithm="dpmsolver++"):
        return float64(DPMSolverMultistepScheduler(**COMMON, algorithm_type=algorithm, solver_order=2,
                                                   solver_type="midpoint", final_sigmas_type="zero",
                                                   timestep_spacing="trailing"))

    cases = {
        "ddpm_small": trajectory(ddpm("fixed_small"), noisy=True),
        "ddpm_large": trajectory(ddpm("fixed_large"), noisy=True),
        "ddim_eta_0": trajectory(ddim(), noisy=False, eta=0.0),
        "ddim_eta_0.5": trajectory(ddim(), noisy=True, eta=0.5),
        "ddim_v": trajectory(ddim("v_prediction"), noisy=False, eta=0.0),
        "dpmpp_2m": trajectory(dpm(), noisy=False),
        "dpmpp_2m_sde": trajectory(dpm("sde-dpmsolver++"), noisy=True),
        "ddpm_learned": trajectory(ddpm("learned_range"), noisy=True, learned=True),
        "heun": exploding(levels(HeunDiscreteScheduler(prediction_type="sample"), twice=True)),
        "euler": exploding(levels(EulerDiscreteScheduler(prediction_type="sample"))),
        "edm_2m": exploding(levels(EDMDPMSolverMultistepScheduler()), edm=True),
        "edm_2m_sde": exploding(levels(EDMDPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")), edm=True,
                                noisy=True),
    }
    for name, case in cases.items():
        np.savez_compressed(pathlib.Path(__file__).with_name(f"{name}.npz"), **case)


if __name__ == "__main__":
    main()

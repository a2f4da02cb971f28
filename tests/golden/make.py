"""Makes the golden files: what the schedulers of `diffusers`, an independent implementation, do step by step.

    pip install '.[reference]'
    python tests/golden/make.py

Each <case>.npz is one short sampling trajectory over the DDPM schedule (beta linear from 1e-4 to 0.02 in 1000 steps)
of a model that anyone can evaluate, output = 0.3 x + 0.1 sin(x), with everything that went in and came out:

    timesteps [n]           entries of the table of betas, falling; the step after the last makes the clean image
    x [n + 1, 2, 1, 2, 2]   the state before step i, and the result
    output [n, ...]         the model's output in step i
    noise [n, ...]          the standard normal that step i was given (zero where it takes none)

The schedulers are built in float32; their tables are replaced by the same in float64. What is left is that
DPMSolverMultistepScheduler rounds the state to float32 in each step.
"""

import pathlib

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

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


def trajectory(scheduler, noisy, **options):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states, outputs, noises = [x], [], []
    for i, t in enumerate(scheduler.timesteps):
        output = 0.3 * x + 0.1 * torch.sin(x)
        noise = torch.zeros(SHAPE, dtype=torch.float64)
        if noisy:
            # The scheduler draws the same from a generator of the same seed.
            noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 + i), dtype=torch.float64)
            options["generator"] = torch.Generator().manual_seed(100 + i)
        x = scheduler.step(output, t, x, **options).prev_sample
        outputs.append(output)
        noises.append(noise)
        states.append(x)
    assert x.dtype == torch.float64
    return dict(timesteps=scheduler.timesteps.numpy(), x=torch.stack(states).numpy(),
                output=torch.stack(outputs).numpy(), noise=torch.stack(noises).numpy())


def main():
    # "leading" ends at entry 0, where DDPM adds no noise, as it should; "trailing" starts at the noisiest entry.
    def ddpm(variance):
        return float64(DDPMScheduler(**COMMON, variance_type=variance, clip_sample=False, timestep_spacing="leading"))

    def ddim(target="epsilon"):
        return float64(DDIMScheduler(**COMMON, prediction_type=target, clip_sample=False, set_alpha_to_one=True,
                                     timestep_spacing="trailing"))

    def dpm():
        return float64(DPMSolverMultistepScheduler(**COMMON, algorithm_type="dpmsolver++", solver_order=2,
                                                   solver_type="midpoint", final_sigmas_type="zero",
                                                   timestep_spacing="trailing"))

    cases = {
        "ddpm_small": trajectory(ddpm("fixed_small"), noisy=True),
        "ddpm_large": trajectory(ddpm("fixed_large"), noisy=True),
        "ddim_eta_0": trajectory(ddim(), noisy=False, eta=0.0),
        "ddim_eta_0.5": trajectory(ddim(), noisy=True, eta=0.5),
        "ddim_v": trajectory(ddim("v_prediction"), noisy=False, eta=0.0),
        "dpmpp_2m": trajectory(dpm(), noisy=False),
    }
    for name, case in cases.items():
        np.savez_compressed(pathlib.Path(__file__).with_name(f"{name}.npz"), **case)


if __name__ == "__main__":
    main()

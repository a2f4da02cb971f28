"""The other side: diffusers' UNet2DModel of as many parameters, its schedulers, and PyTorch's own training step."""

import copy
import itertools

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cdm.images import canvas

SCHEDULERS = {"ancestral": diffusers.DDPMScheduler, "dpmpp_2m": diffusers.DPMSolverMultistepScheduler}
KINDS = ("eager", "compile", "bfloat16")
GROUPS = 4  # of norms; widths are multiples of it


class Theirs:
    """UNet2DModel in the shape of a stage's network: the same levels, blocks and attention, its widths chosen so that
    it has as many parameters within 5 %. `kind`: eager, compile, or bfloat16, which is compiled too; channels last; on
    a GPU in bfloat16 whatever the kind, as ours."""

    def __init__(self, stage, parameters, kind, seed=0):
        torch.manual_seed(seed)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.half = self.device == "cuda" or kind == "bfloat16"
        self.stage = stage
        self.net = self._fitting(parameters).to(self.device, memory_format=torch.channels_last)
        self.parameters = sum(p.numel() for p in self.net.parameters())
        if kind != "eager":
            torch._dynamo.reset()  # or the networks of a few cases use up its limit of programs, and the next run eager
        self._call = self.net if kind == "eager" else torch.compile(self.net)

    def call(self, *given, **labels):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            return self._call(*given, **labels)

    def _network(self, widths):
        model, lowres = self.stage.config.model, bool(self.stage.lowres_size)
        sides = [self.stage.size // 2**level for level in range(len(widths))]
        attends = [side in model.attention for side in sides]
        # Every level has channels // width heads, which must not be none where a width was rounded to less.
        head_width = min([widths[-1] // model.heads, *(w for w, attended in zip(widths, attends) if attended)])
        return diffusers.UNet2DModel(
            sample_size=self.stage.size, in_channels=6 if lowres else 3, out_channels=3, layers_per_block=model.blocks,
            block_out_channels=widths, norm_num_groups=GROUPS, add_attention=bool(model.attention),
            attention_head_dim=max(head_width, 1),
            down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
            up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
            num_class_embeds=len(self.stage.classes) + 1 if self.stage.classes else None)

    def _fitting(self, parameters):
        model = self.stage.config.model
        wanted = [model.channels * scale * np.array(model.multipliers) / GROUPS for scale in np.arange(0.8, 1.31, 0.02)]
        ways, levels = (np.floor, np.ceil), len(model.multipliers)
        # Each level in both ways where they are few; of many, all in one, as it takes a while to count parameters.
        roundings = itertools.product(ways, repeat=levels) if levels <= 4 else [[way] * levels for way in ways]
        wanted = {tuple(int(GROUPS * way(w)) for way, w in zip(rounding, scaled))
                  for rounding in roundings for scaled in wanted}
        with torch.device("meta"):
            counts = {widths: sum(p.numel() for p in self._network(widths).parameters()) for widths in sorted(wanted)}
        widths = min(counts, key=lambda widths: abs(counts[widths] - parameters))
        if abs(counts[widths] / parameters - 1) > 0.05:
            raise ValueError(f"no UNet2DModel has {parameters} parameters within 5 %; the nearest {counts[widths]}")
        return self._network(widths)

    @property
    def flops(self):
        """Of one call of the network for one picture; matrix products and convolutions, which are all but some."""
        x, label, lowres = self._inputs(1)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            self.net(self._see(x, lowres), 500, class_labels=label)
        return counter.get_total_flops()

    def _inputs(self, batch, side=None):
        side = side or self.stage.size
        x = torch.randn(batch, 3, side, side, device=self.device).to(memory_format=torch.channels_last)
        label = torch.randint(max(len(self.stage.classes), 1), (batch,), device=self.device)
        lowres = torch.randn_like(x) if self.stage.lowres_size else None
        return x, label if self.stage.classes else None, lowres

    def _done(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _see(self, x, lowres):
        return x if lowres is None else torch.cat([x, lowres], 1)

    def forward(self, batch, side=None):
        x, label, lowres = self._inputs(batch, side)

        @torch.inference_mode()
        def run():
            self.call(self._see(x, lowres), 500, class_labels=label)
            self._done()

        return run

    def train(self, batch):
        stage, side = self.stage, self.stage.config.data.crop or self.stage.size
        whole = torch.randint(256, (batch, 3, stage.size, stage.size), dtype=torch.uint8, device=self.device)
        _, label, _ = self._inputs(batch, side)
        average = copy.deepcopy(self.net).requires_grad_(False)
        optimizer = torch.optim.Adam(self.net.parameters(), 1e-6, fused=self.device == "cuda")
        alphas = torch.linspace(1, 0, 1001, device=self.device)[1:-1]

        def run():
            x0, lowres = whole.float() / 127.5 - 1, None
            if stage.lowres_size:
                small = F.interpolate(x0, (stage.lowres_size,) * 2, mode="bicubic", antialias=True)
                lowres = F.interpolate(small, x0.shape[2:], mode="bicubic")[..., :side, :side]
                lowres = (lowres + 0.1 * torch.randn_like(lowres)).contiguous(memory_format=torch.channels_last)
            x0 = x0[..., :side, :side].contiguous(memory_format=torch.channels_last)
            t = torch.randint(999, (batch,), device=self.device)
            alpha, eps = alphas[t].view(-1, 1, 1, 1), torch.randn_like(x0)
            x = alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps
            loss = F.mse_loss(self.call(self._see(x, lowres), t, class_labels=label).sample.float(), eps)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            torch._foreach_lerp_(list(average.parameters()), list(self.net.parameters()), 1e-3)
            self._done()

        return run

    def _sample(self, scheduler, steps, x, label, lowres):
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            x = scheduler.step(self.call(self._see(x, lowres), t, class_labels=label).sample, t, x).prev_sample
        return x

    def sampler(self, batch, name, steps):
        scheduler = SCHEDULERS[name]()

        @torch.inference_mode()
        def run():
            self._sample(scheduler, steps, *self._inputs(batch))
            self._done()

        return run

    def upscale(self, side, name, steps):
        """As upscalers do it: each of as many windows as ours sampled for itself, the results blended once."""
        scheduler, size = SCHEDULERS[name](), self.stage.size
        scale, overlap = size // self.stage.lowres_size, self.stage.lowres_size // 4
        starts = scale * canvas.starts(side // scale, self.stage.lowres_size, overlap)
        weights = torch.from_numpy(canvas.weights(starts, size, side, overlap * scale)).to(self.device)
        small = torch.rand(1, 3, side // scale, side // scale, device=self.device) * 2 - 1
        _, label, _ = self._inputs(1)

        @torch.inference_mode()
        def run():
            lowres = F.interpolate(small, (side, side), mode="bicubic").to(memory_format=torch.channels_last)
            whole = torch.zeros_like(lowres)
            for i, top in enumerate(starts):
                for j, left in enumerate(starts):
                    part = slice(top, top + size), slice(left, left + size)
                    x = torch.randn(1, 3, size, size, device=self.device).to(memory_format=torch.channels_last)
                    x = self._sample(scheduler, steps, x, label, lowres[:, :, *part])
                    whole[:, :, *part] += x * weights[i][:, None] * weights[j]
            whole.cpu()

        return run


def cascade(nets, batch, name, steps):
    """Pictures of all networks one after the other, each given the last one's, enlarged."""
    schedulers = [SCHEDULERS[name]() for _ in nets]

    @torch.inference_mode()
    def run():
        made = None
        for net, scheduler, count in zip(nets, schedulers, steps):
            x, label, lowres = net._inputs(batch)
            if lowres is not None:
                lowres = F.interpolate(made, x.shape[2:], mode="bicubic").to(memory_format=torch.channels_last)
            made = net._sample(scheduler, count, x, label, lowres).clamp(-1, 1)
        ((made + 1) * 127.5).round().to(torch.uint8).cpu()

    return run

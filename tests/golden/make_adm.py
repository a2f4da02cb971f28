"""Makes the golden files of ADM's networks: what a PyTorch network written below makes of fake weights (fake.py).

    pip install '.[reference]'
    python tests/golden/make_adm.py

It follows the description in Dhariwal and Nichol 2021 (sec. 3) and in what that builds on (Ho et al. 2020, app. B;
Nichol and Dhariwal 2021), in float64; the tensors' names and both orders of attention are those of the public code,
which was read for them. adm_<case>.npz holds

    flags, names, shapes        guided-diffusion's flags; the tensors that the network asked for
    x, t, labels, lowres        its input: [2, H, W, 3], timesteps, classes, [2, h, w, 3] of an upsampler
    output, abar                the network's answer [2, H, W, 3 or 6]; the share of signal at t
    noise, step                 a standard normal, and the state after one ancestral step from timestep t[1] with it
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from fake import fake

CASES = {
    # Each of the options that the published networks differ in, each way; widths of 128 and 256, sizes of 16 and 8.
    "new_order": dict(head_channels=64, new_order=True, attention=(8,), cosine=True),
    "legacy": dict(channels=256, multipliers=(0.5, 1), heads=4, attention=(16, 8)),
    "between": dict(heads=2, attention=(8,), updown=False, scale_shift=False, learned=False, classes=0),
    "upsampler": dict(head_channels=64, attention=(8,), small=4),
}
SIZE, CLASSES = 16, 10


class UNet:
    """The network of one case; tensors are drawn as they are asked for."""

    def __init__(self, channels=128, multipliers=(1, 2), heads=None, head_channels=None, new_order=False, attention=(),
                 updown=True, scale_shift=True, learned=True, classes=CLASSES, small=None, cosine=False):
        self.__dict__.update(locals())
        self.shapes = {}

    def flags(self):
        flags = dict(num_channels=self.channels, channel_mult=",".join(map(str, self.multipliers)), num_res_blocks=1,
                     attention_resolutions=",".join(map(str, self.attention)), class_cond=self.classes > 0,
                     learn_sigma=self.learned, noise_schedule="cosine" if self.cosine else "linear",
                     resblock_updown=self.updown, use_scale_shift_norm=self.scale_shift,
                     use_new_attention_order=self.new_order)
        flags |= dict(large_size=SIZE, small_size=self.small) if self.small else dict(image_size=SIZE)
        flags |= dict(num_heads=self.heads) if self.heads else dict(num_head_channels=self.head_channels)
        return " ".join(f"--{name} {value}" for name, value in flags.items())

    def get(self, name, *shape):
        self.shapes[name] = shape
        return torch.from_numpy(np.asarray(fake(name, shape), np.float64))

    def linear(self, name, x, outputs):
        return F.linear(x, self.get(f"{name}.weight", outputs, x.shape[1]), self.get(f"{name}.bias", outputs))

    def conv(self, name, x, outputs, size=3, stride=1):
        kernel = self.get(f"{name}.weight", outputs, x.shape[1], size, size)
        return F.conv2d(x, kernel, self.get(f"{name}.bias", outputs), stride, size // 2)

    def norm(self, name, x):
        parameters = (self.get(f"{name}.{part}", x.shape[1]) for part in ("weight", "bias"))
        return F.group_norm(x, 32, *parameters, eps=1e-5)

    def block(self, name, x, emb, outputs, change=lambda x: x):
        """BigGAN's: the change of size lies between activation and convolution, and on the shortcut."""
        h = self.conv(f"{name}.in_layers.2", change(F.silu(self.norm(f"{name}.in_layers.0", x))), outputs)
        told = self.linear(f"{name}.emb_layers.1", F.silu(emb), outputs * (1 + self.scale_shift))[..., None, None]
        if self.scale_shift:  # adaptive group normalisation, eq. 2 less its one
            h = self.norm(f"{name}.out_layers.0", h) * (1 + told[:, :outputs]) + told[:, outputs:]
        else:
            h = self.norm(f"{name}.out_layers.0", h + told)
        h = self.conv(f"{name}.out_layers.3", F.silu(h), outputs)
        x = change(x)
        return h + (x if x.shape[1] == outputs else self.conv(f"{name}.skip_connection", x, outputs, 1))

    def attend(self, name, x):
        batch, channels = x.shape[:2]
        heads = self.heads or channels // self.head_channels
        y = self.norm(f"{name}.norm", x).flatten(2)
        y = F.conv1d(y, self.get(f"{name}.qkv.weight", 3 * channels, channels, 1),
                     self.get(f"{name}.qkv.bias", 3 * channels))
        # Rows: q of all heads, then k, then v; or, older, q, k and v of the first head, then of the next.
        parts = (3, heads) if self.new_order else (heads, 3)
        y = y.reshape(batch, *parts, channels // heads, -1).transpose(3, 4)
        q, k, v = y.unbind(1 if self.new_order else 2)
        weight = torch.softmax(q @ k.transpose(2, 3) / (channels // heads) ** 0.5, dim=-1)
        y = (weight @ v).transpose(2, 3).reshape(batch, channels, -1)
        y = F.conv1d(y, self.get(f"{name}.proj_out.weight", channels, channels, 1),
                     self.get(f"{name}.proj_out.bias", channels))
        return x + y.reshape(x.shape)

    def sized(self, name, x, emb, up):
        """To twice or half the size."""
        channels = x.shape[1]
        if self.updown:
            return self.block(name, x, emb, channels, (lambda x: F.interpolate(x, scale_factor=2)) if up else
                              (lambda x: F.avg_pool2d(x, 2)))
        if up:
            return self.conv(f"{name}.conv", F.interpolate(x, scale_factor=2), channels)
        return self.conv(f"{name}.op", x, channels, stride=2)

    def __call__(self, x, t, labels, lowres):
        frequencies = 10000.0 ** (-torch.arange(self.channels // 2) / (self.channels // 2))
        angle = t[:, None] * frequencies
        emb = self.linear("time_embed.0", torch.cat([angle.cos(), angle.sin()], 1), 4 * self.channels)
        emb = self.linear("time_embed.2", F.silu(emb), 4 * self.channels)
        if self.classes:
            emb = emb + self.get("label_emb.weight", self.classes, 4 * self.channels)[labels]
        if self.small:
            x = torch.cat([x, F.interpolate(lowres, x.shape[2:], mode="bilinear")], 1)

        widths = [int(m * self.channels) for m in self.multipliers]
        h = self.conv("input_blocks.0.0", x, widths[0])
        kept, place = [h], 1
        for level, width in enumerate(widths):
            h = self.block(f"input_blocks.{place}.0", h, emb, width)
            if h.shape[-1] in self.attention:
                h = self.attend(f"input_blocks.{place}.1", h)
            kept.append(h)
            place += 1
            if level < len(widths) - 1:
                h = self.sized(f"input_blocks.{place}.0", h, emb, up=False)
                kept.append(h)
                place += 1
        h = self.block("middle_block.0", h, emb, h.shape[1])
        h = self.block("middle_block.2", self.attend("middle_block.1", h), emb, h.shape[1])
        place = 0
        for level in reversed(range(len(widths))):
            for last in (False, True):
                h = self.block(f"output_blocks.{place}.0", torch.cat([h, kept.pop()], 1), emb, widths[level])
                parts = 1
                if h.shape[-1] in self.attention:
                    h = self.attend(f"output_blocks.{place}.1", h)
                    parts = 2
                if last and level:
                    h = self.sized(f"output_blocks.{place}.{parts}", h, emb, up=True)
                place += 1
        return self.conv("out.2", F.silu(self.norm("out.0", h)), 6 if self.learned else 3)


def betas(cosine, steps=1000):
    if not cosine:
        return np.linspace(1e-4, 0.02, steps)
    share = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - share[1:] / share[:-1], 0.999)


def step(x, output, noise, beta, t):
    """Ho et al. 2020, eq. 7 and 15, with Nichol and Dhariwal 2021, eq. 15; without a learned variance, beta."""
    abar = np.cumprod(1 - beta)
    now, before = abar[t], abar[t - 1]
    clean = ((x - (1 - now) ** 0.5 * output[:, :3]) / now**0.5).clip(-1, 1)
    mean = (before**0.5 * beta[t] * clean + (1 - beta[t]) ** 0.5 * (1 - before) * x) / (1 - now)
    variance = torch.tensor(beta[t])
    if output.shape[1] == 6:
        share = (output[:, 3:] + 1) / 2
        variance = torch.exp(share * np.log(beta[t]) + (1 - share) * np.log(beta[t] * (1 - before) / (1 - now)))
    return mean + variance**0.5 * noise


@torch.no_grad()
def main():
    torch.set_default_dtype(torch.float64)
    random = np.random.default_rng(0)
    for case, options in CASES.items():
        net = UNet(**options)
        low = net.small or 1
        given = {name: random.normal(size=(2, side, side, 3)).astype(np.float32)
                 for name, side in (("x", SIZE), ("noise", SIZE), ("lowres", low))}
        x, noise, lowres = (torch.from_numpy(np.float64(v)).permute(0, 3, 1, 2) for v in given.values())
        labels, t, beta = torch.tensor([3, 7]), torch.tensor([999.0, 437.0]), betas(net.cosine)
        output = net(x, t, labels, lowres)
        after = step(x, net(x, t[[1, 1]], labels, lowres), noise, beta, 437)
        made = {name: value.permute(0, 2, 3, 1).numpy().astype(np.float32)
                for name, value in (("output", output), ("step", after))}
        np.savez_compressed(
            pathlib.Path(__file__).parent / f"adm_{case}.npz", **given, **made, flags=net.flags(),
            names=json.dumps(list(net.shapes)), shapes=json.dumps(list(net.shapes.values())), t=t.numpy().astype(int),
            labels=labels.numpy(), abar=np.cumprod(1 - beta)[t.numpy().astype(int)])
        print(case, f"{sum(np.prod(s) for s in net.shapes.values()) / 1e6:.1f} M", float(output.std()))


if __name__ == "__main__":
    main()

"""The vision transformer of DINOv2 (Oquab et al. 2023): ViT-S/14 and ViT-L/14 with layer scale, at 224 pixels.

The position embeddings were trained for 37 x 37 patches and are brought to 16 x 16 as DINOv2 does it: Keys' cubic with
a = -0.75, not stretched when it shrinks, sampled at

    (i + 1/2) 37 / (16 + 0.1) - 1/2                                                                 (1)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cdm.evals.networks.layers import dense, network

PATCH, SIDE, TRAINED = 14, 16, 37
OFFSET, CUBIC = 0.1, -0.75


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled by channel."""

    heads: int

    @nn.compact
    def __call__(self, x):
        batch, tokens, width = x.shape

        def scale(name):
            return self.param(name, nn.initializers.ones_init(), (width,))

        qkv = nn.Dense(3 * width, name="qkv")(nn.LayerNorm(1e-6, name="norm1")(x))
        q, k, v = jnp.split(qkv.reshape(batch, tokens, 3 * self.heads, -1), 3, axis=2)
        h = jax.nn.dot_product_attention(q, k, v, implementation="xla").reshape(x.shape)
        x = x + scale("ls1") * nn.Dense(width, name="proj")(h)
        h = nn.gelu(nn.Dense(4 * width, name="fc1")(nn.LayerNorm(1e-6, name="norm2")(x)), approximate=False)
        return x + scale("ls2") * nn.Dense(width, name="fc2")(h)


class Vit(nn.Module):
    """[B, 224, 224, 3], normalised by ImageNet's mean and deviation, to the class token after the last norm [B, D]."""

    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (PATCH, PATCH), PATCH, "VALID", name="patch_embed")(x)
        x = x.reshape(len(x), -1, self.width)
        zeros = nn.initializers.zeros_init()
        token = self.param("cls_token", zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        x = x + self.param("pos_embed", zeros, (1, 1 + SIDE * SIDE, self.width))
        for i in range(self.depth):
            x = Block(self.heads, name=f"blocks_{i}")(x)
        return {"pool": nn.LayerNorm(1e-6, name="norm")(x[:, 0])}


def positions(embedding):
    """Equation (1): the position embeddings [1, 1 + 37 * 37, D] of the weights file as [1, 1 + 16 * 16, D]."""
    at = (np.arange(SIDE) + 0.5) * TRAINED / (SIDE + OFFSET) - 0.5
    near = np.floor(at).astype(int)[:, None] + np.arange(-1, 3)
    t, a = np.abs(at[:, None] - near), CUBIC
    weights = np.where(t <= 1, ((a + 2) * t - (a + 3)) * t * t + 1, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a)
    matrix = np.zeros((SIDE, TRAINED))
    np.add.at(matrix, (np.arange(SIDE)[:, None], np.clip(near, 0, TRAINED - 1)), weights)
    token, grid = embedding[:, :1], embedding[:, 1:].reshape(TRAINED, TRAINED, -1)
    grid = np.einsum("yh,xw,hwc->yxc", matrix, matrix, grid, optimize=True)
    return np.concatenate([token, grid.reshape(1, SIDE * SIDE, -1)], axis=1, dtype=np.float32)


def convert(arrays):
    """The variables from the arrays of a `dinov2_vit?14_pretrain.pth`."""

    def norm(name):
        return {"scale": arrays[f"{name}.weight"], "bias": arrays[f"{name}.bias"]}

    params = {"patch_embed": dense(arrays, "patch_embed.proj"), "cls_token": arrays["cls_token"],
              "pos_embed": positions(arrays["pos_embed"]), "norm": norm("norm")}
    for i in range(sum(name.endswith(".ls1.gamma") for name in arrays)):
        block = f"blocks.{i}."
        params[f"blocks_{i}"] = {
            "norm1": norm(f"{block}norm1"), "norm2": norm(f"{block}norm2"), "ls1": arrays[f"{block}ls1.gamma"],
            "ls2": arrays[f"{block}ls2.gamma"], "qkv": dense(arrays, f"{block}attn.qkv"),
            "proj": dense(arrays, f"{block}attn.proj"), "fc1": dense(arrays, f"{block}mlp.fc1"),
            "fc2": dense(arrays, f"{block}mlp.fc2")}
    return {"params": params}


def large():
    """The Network of ViT-L/14."""
    return network(Vit(1024, 24, 16), convert)


def small():
    """The Network of ViT-S/14."""
    return network(Vit(384, 12, 6), convert)

"""The one U-Net of base and super-resolution stages (Ho et al. 2021; Saharia et al. 2021, app. A; Dhariwal and Nichol
2021, app. A), with the options that their tables need.

Parts are named and shaped after ADM's modules (`input_blocks.3.0.in_layers.2` is `input_blocks_3_0/in_layers_2`), so
that its state dicts can be mapped onto them (cdm/interop/adm.py). A super-resolution network is given the low-res
image, upsampled and concatenated on channels (SR3, sec. 2.2), and the augmentation level through an embedding of its
own.
"""

from typing import Callable, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cdm.images.resize import resize
from cdm.nn import layers, norm


class UNet(nn.Module):
    """The network; see `build`."""

    channels: int
    widths: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    remat_levels: tuple[int, ...]
    heads: int
    head_channels: int
    dropout: float
    embedding: str
    resample: str
    rescale: bool
    num_classes: int
    lowres_resize: str | None
    timestep: Callable | None
    output_channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, logsnr, labels, lowres, aug_logsnr, train):
        emb = self.condition(logsnr, labels, aug_logsnr)
        if self.lowres_resize:
            x = jnp.concatenate([x, resize(lowres, x.shape[1:3], self.lowres_resize)], axis=-1)

        def kept(kind, level, static=()):
            # What the backward pass of these levels needs is computed again.
            return nn.remat(kind, static_argnums=static) if level in self.remat_levels else kind

        def residual(channels, level, name, resample="none"):
            block = kept(layers.ResBlock, level, (3,))(  # 3 is `train`
                channels, self.dropout, self.embedding, resample, self.rescale, self.dtype, name=name)
            return lambda h: block(h, emb, train)

        def attention(h, level, name):
            heads = h.shape[-1] // self.head_channels if self.head_channels else self.heads
            return kept(layers.Attention, level)(heads, self.rescale, self.dtype, name=name)(h)

        def attend(h, level, name):
            return attention(h, level, name) if level in self.attention_levels else h

        h = layers.Conv(self.widths[0], dtype=self.dtype, name="input_blocks_0_0")(x)
        skips, index = [h], 1
        for level, width in enumerate(self.widths):
            for _ in range(self.blocks):
                h = residual(width, level, f"input_blocks_{index}_0")(h)
                h = attend(h, level, f"input_blocks_{index}_1")
                skips.append(h)
                index += 1
            if level + 1 < len(self.widths):
                name = f"input_blocks_{index}_0"
                if self.resample == "block":
                    h = residual(h.shape[-1], level, name, "down")(h)
                else:
                    h = nn.Conv(h.shape[-1], (3, 3), (2, 2), padding=1, dtype=self.dtype,
                                kernel_init=layers.kernel_init, name=name)(h)
                skips.append(h)
                index += 1

        bottom = len(self.widths) - 1
        h = residual(h.shape[-1], bottom, "middle_block_0")(h)
        # Whoever wants attention nowhere gets a network that is convolutional throughout, for any window size.
        if self.attention_levels:
            h = attention(h, bottom, "middle_block_1")
        h = residual(h.shape[-1], bottom, "middle_block_2")(h)

        index = 0
        for level, width in reversed(list(enumerate(self.widths))):
            for block in range(self.blocks + 1):
                h = residual(width, level, f"output_blocks_{index}_0")(jnp.concatenate([h, skips.pop()], axis=-1))
                h = attend(h, level, f"output_blocks_{index}_1")
                if level > 0 and block == self.blocks:
                    name = f"output_blocks_{index}_{2 if level in self.attention_levels else 1}"
                    if self.resample == "block":
                        h = residual(h.shape[-1], level, name, "up")(h)
                    else:
                        h = layers.Conv(h.shape[-1], enlarged=True, dtype=self.dtype, name=name)(h)
                index += 1

        h = norm.GroupNorm(silu=True, name="out_0")(h.astype(jnp.float32))
        return layers.Conv(self.output_channels, kernel_init=layers.ZEROS, name="out_2")(h)

    def condition(self, logsnr, labels, aug_logsnr):
        """The embedding [B, 4 channels] of noise level, class and augmentation level: a sum, as in ADM."""

        def dense(name):
            return nn.Dense(4 * self.channels, dtype=self.dtype, kernel_init=layers.kernel_init, name=name)

        def level(h, name):
            return dense(f"{name}_2")(nn.silu(dense(f"{name}_0")(h)))

        if self.timestep:
            emb = level(layers.timestep_embedding(self.timestep(logsnr), self.channels), "time_embed")
        else:
            emb = level(layers.level_embedding(logsnr, self.channels), "time_embed")
        if self.num_classes:
            table = nn.Embed(self.num_classes + 1, 4 * self.channels, dtype=self.dtype, name="label_emb",
                             embedding_init=nn.initializers.normal(1.0))
            emb = emb + table(labels)
        if self.lowres_resize:
            emb = emb + level(layers.level_embedding(aug_logsnr, self.channels), "aug_embed")
        return emb


# Whose parameters are float32 in any dtype: of norms, and of the convolution to the colours.
_WIDE = {"in_layers_0", "out_layers_0", "norm", "out_0", "out_2"}


def cast(params, dtype):
    """Parameters as a network of that dtype computes with them: cast now, what it would cast at every call, which the
    compiler leaves in the loop of a sampler."""

    def one(path, leaf):
        return leaf if leaf.dtype == dtype or path[-2].key in _WIDE else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(one, params)


class Network(NamedTuple):
    """A network as everyone outside sees it.

    init(key) -> params, a nested dict of float32 arrays.
    apply(params, x [B, H, W, C], logsnr [B], labels [B], lowres [B, h, w, C] or None, aug_logsnr [B] or None,
          dropout_key=None) -> [B, H, W, output channels] float32; a dropout key means training.
    """

    init: Callable
    apply: Callable


def build(model, size, lowres_size, num_classes, dtype="float32", output_channels=3, timestep=None):
    """The Network of a `model` config for images of `size`, fed with `lowres_size` (None for a base network), that
    answers with `output_channels`. `timestep` maps logSNR [B] to the 0..1000 [B] that is embedded in its stead.

    Labels run from 0 to num_classes, the last meaning "no class"; num_classes = 0 makes an unconditional network.
    `model.attention` names resolutions of the full image: a crop is attended to at the same depth.
    """
    levels = [size // 2**level for level in range(len(model.multipliers))]
    net = UNet(
        channels=model.channels, widths=tuple(int(m * model.channels) for m in model.multipliers), blocks=model.blocks,
        attention_levels=tuple(level for level, side in enumerate(levels) if side in model.attention),
        remat_levels=tuple(level for level, side in enumerate(levels) if side in model.remat),
        heads=model.heads, head_channels=model.head_channels, dropout=model.dropout, embedding=model.embedding,
        resample=model.resample, rescale=model.skip_rescale, num_classes=num_classes,
        lowres_resize=model.lowres_resize if lowres_size else None, timestep=timestep,
        output_channels=output_channels, dtype=jnp.dtype(dtype))

    def init(key):
        side = 2 ** (len(model.multipliers) - 1)  # parameters do not depend on the image's size
        one = jnp.zeros([1])
        lowres = jnp.zeros([1, side, side, 3]) if lowres_size else None
        x = jnp.zeros([1, side, side, 3])
        return net.init({"params": key}, x, one, jnp.zeros([1], jnp.int32), lowres, one, False)["params"]

    def apply(params, x, logsnr, labels, lowres=None, aug_logsnr=None, dropout_key=None):
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        return net.apply({"params": params}, x, logsnr, labels, lowres, aug_logsnr, dropout_key is not None, rngs=rngs)

    return Network(init, jax.named_call(apply, name="unet"))

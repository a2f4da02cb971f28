"""Inception-v3 (Szegedy et al. 2015) as in the graph of 2015-12-05 that FID, IS and sFID are defined by, for inference:
batch norms are folded into the convolutions before them. Names are those of its PyTorch port.

The graph is neither the paper's network nor torchvision's: average pools leave out the padding, and the last block
pools by maximum.
"""

import flax.linen as nn
import jax.numpy as jnp

from cdm.evals.networks.layers import folded, kernel, network

EPSILON = 1e-3  # of the batch norms
CLASSES = 1008
SPATIAL = 7  # channels of mixed_6/conv that sFID takes (Nash et al. 2021, in ADM's evaluator)


class Inception(nn.Module):
    """[B, 299, 299, 3] in [-1, 1] to pool (pool_3) [B, 2048]; logits [B, 1008] without the bias, which inception scores
    have always been computed without; and spatial [B, 17 * 17 * 7]."""

    @nn.compact
    def __call__(self, x):
        def conv(x, channels, size, name, stride=1, padding="SAME"):
            size = (size, size) if isinstance(size, int) else size
            return nn.relu(nn.Conv(channels, size, stride, padding, name=name)(x))

        def chain(x, block, *convs):
            """Convolutions in a row: (name, channels, kernel[, stride, padding]) each."""
            for name, channels, size, *rest in convs:
                x = conv(x, channels, size, f"{block}.{name}", *rest)
            return x

        def fork(x, name):
            return [conv(x, 384, (1, 3), f"{name}a"), conv(x, 384, (3, 1), f"{name}b")]

        def mean(x):
            return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)

        def join(*parts):
            return jnp.concatenate(parts, axis=-1)

        half = (2, "VALID")
        x = conv(x, 32, 3, "Conv2d_1a_3x3", *half)
        x = conv(x, 32, 3, "Conv2d_2a_3x3", 1, "VALID")
        x = nn.max_pool(conv(x, 64, 3, "Conv2d_2b_3x3"), (3, 3), (2, 2))
        x = conv(x, 80, 1, "Conv2d_3b_1x1", 1, "VALID")
        x = nn.max_pool(conv(x, 192, 3, "Conv2d_4a_3x3", 1, "VALID"), (3, 3), (2, 2))

        for block, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = join(
                chain(x, block, ("branch1x1", 64, 1)),
                chain(x, block, ("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
                chain(x, block, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
                chain(mean(x), block, ("branch_pool", pooled, 1)))
        x = join(
            chain(x, "Mixed_6a", ("branch3x3", 384, 3, *half)),
            chain(x, "Mixed_6a", ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, *half)),
            nn.max_pool(x, (3, 3), (2, 2)))
        for block, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            first = chain(x, block, ("branch1x1", 192, 1))
            if block == "Mixed_6d":  # mixed_6 of the graph
                spatial = first[..., :SPATIAL]
            x = join(
                first,
                chain(x, block, ("branch7x7_1", width, 1), ("branch7x7_2", width, (1, 7)),
                      ("branch7x7_3", 192, (7, 1))),
                chain(x, block, ("branch7x7dbl_1", width, 1), ("branch7x7dbl_2", width, (7, 1)),
                      ("branch7x7dbl_3", width, (1, 7)), ("branch7x7dbl_4", width, (7, 1)),
                      ("branch7x7dbl_5", 192, (1, 7))),
                chain(mean(x), block, ("branch_pool", 192, 1)))
        x = join(
            chain(x, "Mixed_7a", ("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, *half)),
            chain(x, "Mixed_7a", ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)),
                  ("branch7x7x3_3", 192, (7, 1)), ("branch7x7x3_4", 192, 3, *half)),
            nn.max_pool(x, (3, 3), (2, 2)))
        for block in ("Mixed_7b", "Mixed_7c"):
            pooled = mean(x) if block == "Mixed_7b" else nn.max_pool(x, (3, 3), padding="SAME")
            x = join(
                chain(x, block, ("branch1x1", 320, 1)),
                *fork(chain(x, block, ("branch3x3_1", 384, 1)), f"{block}.branch3x3_2"),
                *fork(chain(x, block, ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3)), f"{block}.branch3x3dbl_3"),
                chain(pooled, block, ("branch_pool", 192, 1)))
        pool = jnp.mean(x, axis=(1, 2))
        return {"pool": pool, "logits": nn.Dense(CLASSES, use_bias=False, name="fc")(pool),
                "spatial": spatial.reshape(len(spatial), -1)}


def convert(arrays):
    """The variables from the arrays of `pt_inception-2015-12-05-6726825d.pth`."""
    convs = [name.removesuffix(".conv.weight") for name in arrays if name.endswith(".conv.weight")]
    params = {name: folded(arrays, f"{name}.conv", f"{name}.bn", EPSILON) for name in convs}
    return {"params": params | {"fc": {"kernel": kernel(arrays["fc.weight"])}}}


def inception():
    """The Network."""
    return network(Inception(), convert)

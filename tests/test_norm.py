"""Group normalisation and its SiLU: the forms are one function, with one gradient."""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm.nn import convolution
from cdm.nn.norm import GroupNorm, groups_of

BATCH, HEIGHT, WIDTH = 3, 4, 6


def drawn(channels, dtype=np.float64):
    """x and what adaptive normalisation takes, the parameters, and the gradient of the result."""
    random = np.random.default_rng(channels)
    x, gradient = (random.normal(size=(BATCH, HEIGHT, WIDTH, channels)) for _ in range(2))
    each = {name: random.normal(size=(BATCH, channels)) for name in ("scale", "shift", "added")}
    params = {"scale": random.normal(size=channels), "bias": random.normal(size=channels)}
    return jax.tree.map(lambda v: v.astype(dtype), (3 + 2 * x, each, params, gradient))


def theirs(silu, x, each, params):
    """The same by flax, which knows neither `added` nor adaptive normalisation."""
    x = x + each["added"][:, None, None, :] if "added" in each else x
    x = flax.linen.GroupNorm(groups_of(x.shape[-1]), epsilon=1e-5, dtype=x.dtype).apply({"params": params}, x)
    if "scale" in each:
        x = x * (1 + each["scale"][:, None, None, :]) + each["shift"][:, None, None, :]
    return flax.linen.silu(x) if silu else x


def ours(silu, x, each, params):
    return GroupNorm(silu).apply({"params": params}, x, **each)


def with_gradients(function, x, each, params, gradient, silu=True):
    y, back = jax.vjp(functools.partial(function, silu), x, each, params)
    return jax.tree.map(np.asarray, (y, *back(gradient.astype(y.dtype))))


@pytest.mark.parametrize("channels", [8, 24, 48, 128, 256])
@pytest.mark.parametrize("given", [(), ("added",), ("scale", "shift"), ("scale", "shift", "added")])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_values_and_gradients_are_those_of_flax_in_float64(platform, silu, given, channels):
    x, each, params, gradient = drawn(channels)
    each = {name: each[name] for name in given}
    with jax.enable_x64(True):
        wanted = with_gradients(theirs, x, each, params, gradient, silu)
    with convolution.traced_for(platform):
        found = with_gradients(ours, *jax.tree.map(np.float32, (x, each, params, gradient)), silu)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert one.dtype == np.float32 and other.dtype == np.float64
        assert np.abs(one - other).max() < 2e-6 * (1 + np.abs(other).max())


def test_a_gpus_gradient_in_half_precision_is_as_near_as_jaxs():
    x, each, params, gradient = drawn(64, np.float32)
    wanted = with_gradients(ours, x, each, params, gradient)
    half = x.astype(jnp.bfloat16), each, params, gradient.astype(jnp.bfloat16)
    errors = {}
    for platform in ("gpu", "tpu"):
        with convolution.traced_for(platform):
            y, of_x, *rest = with_gradients(ours, *half)
        assert y.dtype == of_x.dtype == jnp.bfloat16
        errors[platform] = [np.sqrt(np.mean((np.float32(one) - other) ** 2) / np.mean(other**2))
                            for one, other in zip(jax.tree.leaves((y, of_x, rest)), jax.tree.leaves(wanted))]
    assert all(gpu < 1.05 * tpu < 0.02 for gpu, tpu in zip(errors["gpu"], errors["tpu"]))


def test_a_gpu_computes_the_silus_gradient_in_both_passes():
    """Kept in memory from the sums to their use is x alone."""
    given = drawn(16, np.float32)
    with convolution.traced_for("gpu"):
        program = jax.make_jaxpr(lambda *given: jax.vjp(functools.partial(ours, True), *given[:3])[1](given[3]))
        text = str(program(*given))
    assert text.count("logistic") == 3  # of the value and of each pass
    assert text.count("optimization_barrier") == 2


@pytest.mark.parametrize("channels", range(1, 300, 7))
def test_groups_divide_the_channels_and_are_32_where_ddpms_are(channels):
    groups = groups_of(channels)
    assert channels % groups == 0 and 1 <= groups <= 32
    assert groups_of(128 * channels) == 32

"""The U-Net: ADM's parts by name and shape, every input of consequence, every example for itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm import config as configs
from cdm import nn
from cdm.nn import convolution, layers
from cdm.stage import flatten

SIZE, BATCH, CLASSES = 16, 4, 3
VARIANTS = [(e, r) for e in ("adaptive", "additive") for r in ("block", "between")]
every_variant = pytest.mark.parametrize("embedding, resample", VARIANTS, ids=["-".join(v) for v in VARIANTS])


def model(**changes):
    config = configs.sr_stage("any", SIZE // 2, SIZE).model
    config.update(dict(channels=8, multipliers=(1, 2), blocks=1, attention=(8,), heads=2))
    config.update(changes)
    return config


@functools.cache
def compiled(dtype="float32", **changes):
    """(Network, its apply compiled) of a super-resolution network."""
    network = nn.build(model(**changes), SIZE, SIZE // 2, CLASSES, dtype)
    return network, jax.jit(network.apply)


@pytest.fixture(scope="module")
def params_of(lively):
    return lambda network: lively(jax.eval_shape(network.init, jax.random.key(0)))


def inputs(batch=BATCH, seed=0):
    """x, logsnr, labels, lowres, aug_logsnr."""
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=(batch, SIZE, SIZE, 3)).astype(np.float32),
        "logsnr": random.uniform(-5, 5, batch).astype(np.float32),
        "labels": random.integers(0, CLASSES, batch).astype(np.int32),
        "lowres": random.normal(size=(batch, SIZE // 2, SIZE // 2, 3)).astype(np.float32),
        "aug_logsnr": random.uniform(-5, 5, batch).astype(np.float32),
    }


def adm(config, classes, super_resolution):
    """Names and shapes of guided-diffusion's UNetModel, counted as its constructor does, for an SR network with the
    augmentation's embedding beside the time's; the infixes op and conv of its resampling layers left out."""
    shapes, wide = {}, 4 * config.channels

    def linear(name, inputs, outputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def conv(name, inputs, outputs, kernel=3):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, kernel, kernel), (outputs,)

    def norm(name, channels):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)

    def block(name, inputs, outputs):
        norm(f"{name}.in_layers.0", inputs)
        conv(f"{name}.in_layers.2", inputs, outputs)
        linear(f"{name}.emb_layers.1", wide, 2 * outputs if config.embedding == "adaptive" else outputs)
        norm(f"{name}.out_layers.0", outputs)
        conv(f"{name}.out_layers.3", outputs, outputs)
        if inputs != outputs:
            conv(f"{name}.skip_connection", inputs, outputs, 1)

    def attention(name, channels):
        norm(f"{name}.norm", channels)
        linear(f"{name}.qkv", channels, 3 * channels)
        linear(f"{name}.proj_out", channels, channels)

    def resample(name, channels):
        block(name, channels, channels) if config.resample == "block" else conv(name, channels, channels)

    for name in ("time_embed", "aug_embed") if super_resolution else ("time_embed",):
        linear(f"{name}.0", config.channels, wide)
        linear(f"{name}.2", wide, wide)
    shapes["label_emb.weight"] = (classes + 1, wide)
    channels, last = config.channels, len(config.multipliers) - 1
    conv("input_blocks.0.0", 6 if super_resolution else 3, channels)
    skips, count = [channels], 1
    for level, multiplier in enumerate(config.multipliers):
        for _ in range(config.blocks):
            block(f"input_blocks.{count}.0", channels, multiplier * config.channels)
            channels = multiplier * config.channels
            if SIZE >> level in config.attention:
                attention(f"input_blocks.{count}.1", channels)
            skips.append(channels)
            count += 1
        if level < last:
            resample(f"input_blocks.{count}.0", channels)
            skips.append(channels)
            count += 1
    block("middle_block.0", channels, channels)
    attention("middle_block.1", channels)
    block("middle_block.2", channels, channels)
    count = 0
    for level, multiplier in reversed(list(enumerate(config.multipliers))):
        for i in range(config.blocks + 1):
            parts = 1
            block(f"output_blocks.{count}.0", channels + skips.pop(), multiplier * config.channels)
            channels = multiplier * config.channels
            if SIZE >> level in config.attention:
                attention(f"output_blocks.{count}.1", channels)
                parts = 2
            if level and i == config.blocks:
                resample(f"output_blocks.{count}.{parts}", channels)
            count += 1
    norm("out.0", channels)
    conv("out.2", channels, 3)
    return shapes


def as_torch(name, shape):
    """Our name and shape of a parameter in PyTorch's terms."""
    *path, leaf = name.split("/")
    parts = [part for module in path for part in module.split("_")]
    for pair in ("input_blocks", "middle_block", "output_blocks", "in_layers", "out_layers", "emb_layers", "time_embed",
                 "aug_embed", "label_emb", "skip_connection", "proj_out"):
        parts = " ".join(parts).replace(pair.replace("_", " "), pair).split()
    if leaf == "kernel":
        shape = (shape[-1], shape[-2], *shape[:-2])
    return ".".join([*parts, "bias" if leaf == "bias" else "weight"]), shape


@every_variant
@pytest.mark.parametrize("lowres_size", [None, SIZE // 2], ids=["base", "sr"])
def test_parameters_map_one_to_one_on_adm(embedding, resample, lowres_size):
    config = model(embedding=embedding, resample=resample, multipliers=(1, 2, 2), blocks=2)
    network = nn.build(config, SIZE, lowres_size, CLASSES)
    tree = flatten(jax.eval_shape(network.init, jax.random.key(0)))
    ours = dict(as_torch(name, leaf.shape) for name, leaf in tree.items())
    assert len(ours) == len(tree)
    assert ours == adm(config, CLASSES, lowres_size is not None)


def test_an_unconditional_network_has_no_classes():
    network = nn.build(model(), SIZE, None, 0)
    assert "label_emb" not in jax.eval_shape(network.init, jax.random.key(0))


def test_no_attention_is_a_network_without_any():
    names = flatten(jax.eval_shape(nn.build(model(attention=()), SIZE, None, 0).init, jax.random.key(0)))
    assert not [name for name in names if "qkv" in name]


@every_variant
def test_every_option_answers_with_an_image(embedding, resample, params_of):
    network, apply = compiled(embedding=embedding, resample=resample)
    output = apply(params_of(network), **inputs())
    assert output.shape == (BATCH, SIZE, SIZE, 3) and output.dtype == jnp.float32
    assert np.all(np.isfinite(output)) and np.std(output) > 0.1


def test_a_fresh_network_answers_zero():
    network, apply = compiled()
    params = jax.jit(network.init)(jax.random.key(0))
    assert not np.any(apply(params, **inputs()))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_fresh_kernels_are_spread_as_pytorchs():
    for shape in ((3, 3, 16, 64), (256, 128)):
        bound = np.prod(shape[:-1]) ** -0.5
        kernel = np.asarray(layers.kernel_init(jax.random.key(0), shape))
        assert np.abs(kernel).max() <= bound
        assert abs(kernel.std() / (bound / 3**0.5) - 1) < 0.05 and abs(kernel.mean()) < 0.05 * bound


@pytest.mark.parametrize("name", ["x", "logsnr", "labels", "lowres", "aug_logsnr"])
def test_every_input_has_a_say(name, params_of):
    network, apply = compiled()
    params, here = params_of(network), inputs()
    other = {"labels": (here["labels"] + 1) % CLASSES}.get(name, here[name] + 1)
    change = np.abs(apply(params, **here) - apply(params, **{**here, name: other}))
    assert np.all(change.reshape(BATCH, -1).max(1) > 1e-3)


def test_the_null_class_is_a_class_of_its_own(params_of):
    network, apply = compiled()
    params, here = params_of(network), inputs()
    answers = [apply(params, **{**here, "labels": np.full(BATCH, label, np.int32)}) for label in range(CLASSES + 1)]
    for label in range(CLASSES):
        assert np.abs(answers[label] - answers[CLASSES]).max() > 1e-3


@every_variant
def test_the_other_examples_of_a_batch_change_nothing(embedding, resample, params_of):
    network, apply = compiled(embedding=embedding, resample=resample)
    params, here, there = params_of(network), inputs(), inputs(seed=1)
    mixed = {name: np.concatenate([here[name][:1], there[name][1:]]) for name in here}
    np.testing.assert_allclose(apply(params, **mixed)[0], apply(params, **here)[0], atol=1e-5)


@every_variant
def test_parameters_cast_before_are_those_cast_at_every_call(embedding, resample, params_of):
    network, apply = compiled(embedding=embedding, resample=resample, dtype="bfloat16")
    params = params_of(network)
    cast = jax.jit(lambda params: nn.cast(params, "bfloat16"))(params)
    for name, leaf in flatten(cast).items():
        module = name.split("/")[-2]
        wide = module in ("in_layers_0", "out_layers_0", "norm", "out_0", "out_2")
        assert leaf.dtype == (np.float32 if wide else jnp.bfloat16)
    np.testing.assert_array_equal(apply(cast, **inputs()), apply(params, **inputs()))
    same = nn.cast(params, "float32")
    assert all(a is b for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(params)))


def test_downsampling_averages():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    blocks = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_allclose(layers.downsample(jnp.asarray(x)), sum(blocks) / 4, atol=1e-6)


def test_noise_levels_are_told_apart_where_signal_and_noise_both_show():
    logsnr = jnp.linspace(-8, 8, 81)
    embedding = np.asarray(layers.level_embedding(logsnr, 16))
    assert embedding.shape == (81, 16)
    assert np.linalg.norm(np.diff(embedding, axis=0), axis=1).min() > 0.1
    beyond = layers.level_embedding(jnp.float32([-20, -9, 9, 20, jnp.inf]), 16)
    np.testing.assert_array_equal(beyond, embedding[np.array([0, 0, -1, -1, -1])])


def test_without_attention_a_shifted_picture_gives_a_shifted_answer(lively):
    side, shift = 128, 8
    network = nn.build(model(attention=()), side, side // 2, CLASSES)
    params = lively(jax.eval_shape(network.init, jax.random.key(0)))
    random = np.random.default_rng(0)
    x, lowres = np.zeros((2, side, side, 3), np.float32), np.zeros((2, side // 2, side // 2, 3), np.float32)
    x[0, 56:64, 56:64], lowres[0, 28:32, 28:32] = random.normal(size=(8, 8, 3)), random.normal(size=(4, 4, 3))
    x[1], lowres[1] = np.roll(x[0], shift, (0, 1)), np.roll(lowres[0], shift // 2, (0, 1))
    still, moved = jax.jit(network.apply)(params, x, np.zeros(2), np.zeros(2, np.int32), lowres, np.zeros(2))
    inside = slice(44, 92)
    np.testing.assert_allclose(moved[inside, inside], np.roll(still, shift, (0, 1))[inside, inside], atol=2e-3)
    assert np.abs(moved - still)[inside, inside].max() > 0.1


def test_half_precision_is_for_the_computation_alone(params_of):
    network, apply = compiled()
    half, apply_half = compiled("bfloat16")
    params = params_of(half)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(jax.eval_shape(half.init, jax.random.key(0))))
    output, exact = apply_half(params, **inputs()), apply(params, **inputs())
    assert output.dtype == jnp.float32
    error = np.sqrt(np.mean((output - exact) ** 2) / np.mean(exact**2))
    assert 1e-5 < error < 0.1


@pytest.mark.parametrize("embedding, resample", [VARIANTS[0], pytest.param(*VARIANTS[3], marks=pytest.mark.slow)])
def test_the_gradient_reaches_every_parameter(embedding, resample, params_of):
    network, _ = compiled(embedding=embedding, resample=resample)
    wanted = np.random.default_rng(1).normal(size=(BATCH, SIZE, SIZE, 3))
    mean = jax.grad(lambda params: jnp.mean(wanted * network.apply(params, **inputs())))
    gradient = jax.jit(mean)(params_of(network))
    silent = [name for name, leaf in flatten(gradient).items() if not np.any(np.abs(leaf) > 1e-8)]
    assert not silent


def test_dropout_acts_in_training_alone(lively):
    block, x, emb = layers.ResBlock(8, dropout=0.5), inputs()["x"], np.ones([BATCH, 4], np.float32)
    params = lively(jax.eval_shape(lambda: block.init(jax.random.key(0), x, emb, False)))
    apply = jax.jit(block.apply, static_argnums=3)
    once, again, other = (apply(params, x, emb, True, rngs={"dropout": jax.random.key(k)}) for k in (0, 0, 1))
    at_rest = apply(params, x, emb, False)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(at_rest, jax.jit(layers.ResBlock(8).apply, static_argnums=3)(params, x, emb, False))
    assert np.abs(once - other).max() > 0.1 and np.abs(once - at_rest).max() > 0.1


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_by_heads_is_attention_by_pixels(heads, lively):
    """Parameters, values and gradients, in float32; in bfloat16 as near to float32 as the other."""
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 16)).astype(np.float32)

    def made(platform, dtype):
        attention = layers.Attention(heads, dtype=dtype)
        with convolution.traced_for(platform):
            fresh = attention.init(jax.random.key(0), x)["params"]
            params = lively(fresh)
            value = attention.apply({"params": params}, x)
            slopes = jax.grad(lambda params, x: jnp.sum(attention.apply({"params": params}, x) ** 2), (0, 1))(params, x)
        return fresh, value, slopes

    (fresh, *wanted), (same, *found) = made("cpu", jnp.float32), made("tpu", jnp.float32)
    assert jax.tree.all(jax.tree.map(np.array_equal, fresh, same))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.abs(one - other).max() < 1e-5 * (1 + np.abs(other).max())
    pixels, heads = ([np.sqrt(np.mean((np.float32(one) - other) ** 2)) for one, other in zip(
        jax.tree.leaves(made(platform, jnp.bfloat16)[1:]), jax.tree.leaves(wanted))] for platform in ("cpu", "tpu"))
    assert all(0 < one < 1.5 * other for one, other in zip(heads, pixels))

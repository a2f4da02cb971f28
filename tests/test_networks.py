"""The evaluation networks against other implementations on the same weights and images: see golden/make_networks.py."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fake import fake, images

from cdm.evals import features, networks, weights
from cdm.evals.networks import resnet, vit
from cdm.images.resize import to_float
from cdm.stage import unflatten

GOLDEN = pathlib.Path(__file__).with_name("golden")


def golden(name):
    """(variables of fake weights; the outputs of the other implementation)."""
    found = dict(np.load(GOLDEN / f"{name}.npz"))
    names, shapes = (json.loads(str(found.pop(key))) for key in ("names", "shapes"))
    arrays = {key: fake(key, tuple(shape)) for key, shape in zip(names, shapes)}
    return networks.build(name).convert(unflatten(arrays) if name.startswith("lpips") else arrays), found


def published(name):
    """(variables of the published weights; the outputs of the other implementation)."""
    if not weights.cached(name).is_file():
        pytest.skip(f"cdm eval weights {name}")
    return weights.load(name)[0], dict(np.load(GOLDEN / f"{name}_real.npz"))


def close(found, expected):
    """Within 1e-4 of the largest value."""
    assert np.isfinite(found).all() and np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def check_features(name, variables, expected):
    extractor = features.Extractor(name, variables, "", batch_size=2)
    found = extractor(images(0))
    assert found.keys() == expected.keys() and extractor.dim == expected["pool"].shape[1]
    for key, value in expected.items():
        close(found[key], value)
    return extractor


def check_lpips(name, variables, expected):
    apply = jax.jit(networks.build(name).apply)
    first, second = to_float(images(0)), to_float(images(1))
    distance = apply(variables, first, second)
    close(distance, expected["distance"])
    np.testing.assert_allclose(apply(variables, second, first), distance, rtol=1e-5)
    assert np.max(np.abs(apply(variables, first, first))) < 1e-12


@pytest.mark.parametrize("name", ["rn50", "inception", "dinov2_s"])
def test_features_equal_another_implementation(name):
    check_features(name, *golden(name))


@pytest.fixture(scope="module")
def lite0():
    """The Extractor of fake weights, seen to equal another implementation."""
    return check_features("lite0", *golden("lite0"))


def test_features_do_not_depend_on_the_batch(lite0):
    five = lite0(images(2, 5))
    for i in range(5):
        one = lite0(images(2, 5)[i : i + 1])
        assert {key: value.shape for key, value in one.items()} == {"pool": (1, 1280), "logits": (1, 1000)}
        for key, value in one.items():
            close(five[key][i], value[0])


@pytest.mark.parametrize("batch", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 1), np.uint8),
                                   np.zeros((0, 8, 8, 3), np.uint8)])
def test_what_is_no_batch_of_images_is_refused(lite0, batch):
    with pytest.raises(ValueError, match=r"`images` \(=.*\) must be uint8"):
        lite0(batch)


@pytest.mark.parametrize("name", ["lpips_alex", "lpips_vgg"])
def test_lpips_equals_the_package(name):
    check_lpips(name, *golden(name))


@pytest.mark.parametrize("name", ["lite0", "rn50"])
def test_features_of_the_published_weights(name):
    check_features(name, *published(name))


@pytest.mark.parametrize("name", ["lpips_alex", "lpips_vgg"])
def test_lpips_of_the_published_weights(name):
    check_lpips(name, *published(name))


def test_the_large_transformer_has_its_size():
    shapes = jax.eval_shape(networks.build("dinov2").init, jax.random.key(0), jnp.zeros([1, 224, 224, 3]))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == 304_368_640 - 1024 - (37**2 - 16**2) * 1024  # DINOv2's, less its mask token and spare positions


def test_positions_of_a_constant_are_constant():
    constant = np.full((1, 1 + 37 * 37, 3), 0.7, np.float32)
    np.testing.assert_allclose(vit.positions(constant), constant[:, : 1 + 16 * 16], rtol=1e-6)


def test_tensorflow_1_resize_takes_every_size():
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None], (1, 100, 299, 3))
    found = 128 + 128 * np.asarray(features.INPUTS["inception"].prepare(jnp.asarray(ramp))[0, :, 7, 0])
    np.testing.assert_allclose(found, np.minimum(np.arange(299) * 100 / 299, 99), atol=1e-4)


def test_lpips_needs_pixels():
    network = networks.build("lpips_alex")
    with pytest.raises(ValueError, match="at least 32 pixels"):
        jax.eval_shape(network.init, jax.random.key(0), *[jnp.zeros([1, 31, 64, 3])] * 2)


def test_the_statistics_move_in_training_only():
    """By a tenth of the way to those of the batch, which the norms then use."""
    network = resnet.build("small", 2)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = jax.jit(network.init, static_argnums=1)(jax.random.key(0), 8)
    params, statistics = variables["params"], variables["statistics"]
    kernel = params["stem_conv"]["kernel"]
    stem = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    _, moved = jax.jit(lambda *args: network.apply(*args, train=True))(params, statistics, x)
    np.testing.assert_allclose(moved["stem_norm"]["mean"], 0.1 * stem.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(moved["stem_norm"]["var"], 0.9 + 0.1 * stem.var((0, 1, 2)), rtol=1e-4)
    logits, same = jax.jit(network.apply)(params, statistics, x)
    assert logits.shape == (4, 2)
    jax.tree.map(np.testing.assert_array_equal, same, statistics)


def test_resnet_50_has_its_size_at_any_image_size():
    shapes = jax.eval_shape(lambda: resnet.build("resnet50", 1000).init(jax.random.key(0), 32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 25_557_032  # torchvision's, v1.5 but for strides

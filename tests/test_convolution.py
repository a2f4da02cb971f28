"""3x3 convolutions: every form is the same function, and the CPU has its own in float32 alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm.nn import convolution

# [B, H, W, C] and channels of output: products of Winograd's, pixels abreast by four, by two, by two for few channels
# of input, XLA's own; sides that are odd in one and in the other.
SHAPES = [((4, 24, 30, 64), 48), ((2, 6, 8, 24), 3), ((2, 5, 6, 8), 16), ((1, 4, 6, 3), 40), ((2, 6, 4, 32), 32),
          ((1, 7, 8, 48), 48), ((1, 6, 7, 8), 16)]


def exact(x, kernel):
    """The convolution as its definition has it, in float64."""
    height, width = x.shape[1:3]
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i : i + height, j : j + width] @ np.float64(kernel[i, j]) for i in range(3) for j in range(3))


def drawn(shape, channels, larger=1):
    """x, a kernel whose answer is of size 1, and a gradient of it."""
    random = np.random.default_rng(0)
    batch, height, width, inputs = shape
    sizes = (shape, (3, 3, inputs, channels), (batch, larger * height, larger * width, channels))
    x, kernel, gradient = (random.standard_normal(size, np.float32) for size in sizes)
    return x, kernel / np.float32(np.sqrt(9 * inputs)), gradient


def products(function, *given):
    """Shapes of the results of what is multiplied in a program, in order."""
    return [e.outvars[0].aval.shape for e in jax.make_jaxpr(function)(*given).jaxpr.eqns[0].params[
        "call_jaxpr"].jaxpr.eqns if e.primitive.name in ("dot_general", "conv_general_dilated")]


@pytest.mark.parametrize("shape, channels", SHAPES)
def test_every_form_is_the_convolution(shape, channels):
    x, kernel, _ = drawn(shape, channels)
    np.testing.assert_allclose(convolution.convolve(x, kernel), exact(x, kernel), atol=1e-5)


@pytest.mark.parametrize("shape, channels", [((2, 4, 6, 8), 16), ((1, 5, 3, 16), 4)])
def test_enlarged_is_the_convolution_of_what_is_enlarged(shape, channels):
    x, kernel, _ = drawn(shape, channels)
    larger = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(convolution.enlarge(x), larger)
    np.testing.assert_allclose(convolution.convolve_enlarged(x, kernel), exact(larger, kernel), atol=1e-5)


@pytest.mark.parametrize("shape, channels, larger", [
    *((*one, 1) for one in SHAPES), ((2, 4, 6, 8), 16, 2), ((3, 5, 3, 4), 8, 2)])
def test_gradients_are_those_of_xlas_convolution(shape, channels, larger):
    x, kernel, gradient = drawn(shape, channels, larger)

    def gradients():
        function = convolution.convolve if larger == 1 else convolution.convolve_enlarged
        return jax.jit(lambda *given: jax.vjp(function, *given)[1](gradient))(x, kernel)

    found = gradients()
    with convolution.plain():
        wanted = gradients()
    for ours, theirs in zip(found, wanted):
        assert np.abs(ours - theirs).max() < 3e-6 * np.abs(theirs).max() + 1e-6


def test_the_error_is_that_of_float32():
    """In the mean over pixels, beside XLA's own: Winograd's sums are of sums, and no worse by more than that."""
    x, kernel, _ = drawn((4, 16, 16, 64), 64)
    right = exact(x, kernel)
    error = np.sqrt(np.mean((convolution.convolve(x, kernel) - right) ** 2))
    with convolution.plain():
        direct = np.sqrt(np.mean((convolution.convolve(x, kernel) - right) ** 2))
    assert 0 < error < 4 * direct < 4e-6


def test_forms_are_chosen_by_shape():
    def of(shape, channels, function=convolution.convolve):
        return products(function, *drawn(shape, channels)[:2])

    assert of((4, 24, 30, 64), 48) == [(16, 720, 48)]  # 16 products of 12 x 15 tiles of 4 pictures
    assert of((4, 8, 8, 64), 48) == [(4, 8, 8, 48)]  # products too small
    with convolution.one_core():
        assert of((4, 8, 8, 64), 48) == [(16, 64, 48)]  # for several cores
    assert of((2, 8, 8, 24), 3) == [(2, 8, 2, 12)]  # four pixels abreast
    assert of((2, 8, 8, 8), 16) == [(2, 8, 4, 32)]
    assert of((2, 8, 8, 32), 32) == [(2, 8, 8, 32)]
    assert of((1, 512, 256, 48), 48) == [(1, 512, 256, 48)]  # too large for the cache
    assert of((2, 4, 4, 8), 16, convolution.convolve_enlarged) == [(9, 32, 16)]
    assert of((2, 16, 16, 512), 512) == [(16, 128, 512)]
    assert of((1, 16, 16, 512), 512) == [(1, 16, 16, 512)]  # few pixels for so large a kernel
    assert of((2, 8, 8, 1024), 512, convolution.convolve_enlarged) == [(9, 128, 512)]
    for shape, channels in (((1, 256, 256, 16), 16), ((1, 8, 8, 1024), 512)):  # the same of what is enlarged
        large = jax.make_jaxpr(convolution.convolve_enlarged)(*drawn(shape, channels)[:2]).jaxpr.eqns
        assert [e.primitive.name for e in large][-1] == "conv_general_dilated"


@pytest.mark.parametrize("function", [convolution.convolve, convolution.convolve_enlarged])
def test_elsewhere_it_is_xlas_convolution(function, monkeypatch):
    x, kernel, _ = drawn((4, 8, 8, 64), 64)
    half = [jnp.asarray(v, jnp.bfloat16) for v in (x, kernel)]

    def found(*given):
        return [e.primitive.name for e in jax.make_jaxpr(lambda *v: function(*v))(*given).jaxpr.eqns][-1]

    assert found(x, kernel) == "custom_vjp_call"
    assert found(*half) == "conv_general_dilated"
    with convolution.plain():
        assert found(x, kernel) == "conv_general_dilated"
    assert found(x, kernel) == "custom_vjp_call"
    monkeypatch.setattr(convolution, "backend", lambda: "gpu")
    assert found(x, kernel) == "conv_general_dilated"


def test_the_backend_is_that_of_the_default_device():
    for device in (None, "cpu", jax.devices("cpu")[0]):
        with jax.default_device(device):
            assert convolution.backend() == "cpu"
    with jax.default_device("gpu"):  # nothing is computed: there need not be one
        assert convolution.backend() == "gpu" and not convolution.for_cpu()


def test_a_compiled_program_is_not_taken_for_that_of_another_device():
    x, kernel, _ = drawn((2, 8, 8, 64), 64)
    traced = []

    @jax.jit
    def run(x, kernel):
        traced.append(1)
        return convolution.convolve(x, kernel)

    run(x, kernel)
    with convolution.plain():
        run(x, kernel)
    run(x, kernel)
    assert len(traced) == 2

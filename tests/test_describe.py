"""What `describe` says of memory, against programs whose need is known and against the compiler's."""

import jax
import jax.numpy as jnp
import pytest

from cdm.describe import describe, peak, program
from cdm.stage import Stage

X = jax.ShapeDtypeStruct((1000,), jnp.float32)


@pytest.mark.parametrize("function, arrays", [
    (lambda x: x + 1, 1),
    (lambda x: jnp.cos(jnp.sin(jnp.exp(x + 1))), 2),  # a chain, of any length, has what it reads and what it makes
    (lambda x: (lambda a, b, c: a + b + c)(x + 1, x + 2, x + 3), 4),  # and the first sum
    (lambda x: jax.jit(lambda y: jnp.exp(y + 1) * 2)(x * 2) + 1, 3),  # what the program outside holds is there inside
    (lambda x: jax.lax.scan(lambda y, _: (jnp.sin(y + 1), None), x, length=9)[0], 2),
    (lambda x: jnp.concatenate([x + 1, x + 2]), 4),
    (lambda x: (x + 1, x + 2), 2),
])
def test_the_peak_of_a_program_is_what_lives_at_once(function, arrays):
    assert peak(program(function, X)[1]) == arrays * 4000


def test_the_backward_pass_keeps_what_it_needs():
    def deep(x):
        for _ in range(10):
            x = jnp.sin(x)
        return jnp.sum(x)

    assert peak(program(deep, X)[1]) <= 8004 < 40_000 <= peak(program(jax.grad(deep), X)[1]) <= 56_000


def gradient(config, count):
    """The program of a batch's gradient, and its shapes."""
    stage, size = Stage(config, ("a",)), config.size
    batch = [jax.ShapeDtypeStruct((count, *shape), dtype) for shape, dtype in (
        ((size, size, 3), jnp.uint8), ((), jnp.int32), ((), jnp.uint32))]
    return jax.value_and_grad(lambda params, *batch: stage.loss(params, *batch, 0)[0]), (
        jax.eval_shape(stage.init), *batch)


def test_the_compiler_needs_no_more_than_is_described(tiny_sr):
    tiny_sr.model.multipliers = (1,)  # compiling is the cost
    function, shapes = gradient(tiny_sr, 1)
    used = jax.jit(function).lower(*shapes).compile().memory_analysis()
    most = peak(program(function, *shapes)[1])
    assert most / 4 < used.temp_size_in_bytes + used.output_size_in_bytes < most


def test_an_image_more_costs_its_activations_more(tiny_sr):
    """So that what a batch needs follows from what is described."""
    memory = describe(tiny_sr, ("a",))["memory"]
    (function, one), (_, nine) = gradient(tiny_sr, 1), gradient(tiny_sr, 9)
    of = {count: peak(program(function, *shapes)[1]) for count, shapes in ((1, one), (9, nine))}
    assert (of[9] - of[1]) / 8 == pytest.approx(memory["activations_per_image"], rel=0.1)
    assert of[1] == memory["peak"]["train"] - memory["train_state"] + memory["params"]

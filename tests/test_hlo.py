"""What the speed experiments read in the text of a compiled program."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import pytest

# By its path: the experiments are no part of what is installed.
PATH = pathlib.Path(__file__).parents[1] / "experiments" / "speed" / "hlo.py"
hlo = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("hlo", PATH))
spec.loader.exec_module(hlo)

# 4 KB arrays; one lies beside the cores, S(1); one loop turns five times, of another nothing is said.
TEXT = """HloModule jit_step

%fused (a.1: f32[32,32], b.1: f32[32,32]) -> f32[32,32] {
  %a.1 = f32[32,32]{1,0} parameter(0)
  %b.1 = f32[32,32]{1,0} parameter(1)
  ROOT %sum = f32[32,32]{1,0} add(%a.1, %b.1), metadata={op_name="jit(step)/add"}
}

%turned (a.2: f32[32,32]) -> bf16[32,32] {
  %a.2 = f32[32,32]{1,0} parameter(0)
  %t = f32[32,32]{1,0} transpose(%a.2), dimensions={1,0}
  ROOT %c = bf16[32,32]{1,0} convert(%t)
}

%body (s: (s32[], f32[32,32])) -> (s32[], f32[32,32]) {
  %s = (s32[], f32[32,32]{1,0}) parameter(0)
  %v = f32[32,32]{1,0} get-tuple-element(%s), index=1
  %p = f32[32,32]{1,0} dot(%v, %v), metadata={op_name="jit(step)/jvp(net)/dot"}, backend_config={"estimated_cycles":"7"}
  ROOT %r = (s32[], f32[32,32]{1,0}) tuple(%v, %p)
}

ENTRY %main (x: f32[32,32], y: f32[32,32]) -> f32[32,32] {
  %x = f32[32,32]{1,0} parameter(0)
  %y = f32[32,32]{1,0:T(8,128)S(1)} parameter(1)
  %f = f32[32,32]{1,0} fusion(%x, %y, %x, %x, %x, /*index=5*/%x), kind=kLoop, calls=%fused
  %k = bf16[32,32]{1,0} fusion(%f), kind=kInput, calls=%turned, metadata={op_name="jit(step)/jvp(net)/cast"}
  %g = (f32[32,32]{1,0}, f32[32,32]{1,0}) all-reduce-start(%f, %x), to_apply=%fused
  %h = (f32[32,32]{1,0}, f32[32,32]{1,0}) all-reduce-done(%g)
  %e = f32[32,32]{1,0} exponential(%x), metadata={op_name="jit(step)/jvp(net)/exp"}
  %w = (s32[], f32[32,32]{1,0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %o = f32[32,32]{1,0} get-tuple-element(%w), index=1
}
"""


def test_operations_are_counted_once_by_kind_with_the_bytes_of_the_large_memory():
    found = hlo.counted(hlo.computations(TEXT))
    assert found == {
        "update": {"operations": 1, "bytes": 6 * 4096, "cycles": 0},  # its name is in what was fused
        "copies": {"operations": 1, "bytes": 4096 + 2048, "cycles": 0},
        "links": {"operations": 1, "bytes": 2 * 4096, "cycles": 0},
        "rest": {"operations": 1, "bytes": 2 * 4096, "cycles": 0},
        "products": {"operations": 5, "bytes": 5 * 3 * 4096, "cycles": 35}}


def test_a_loop_of_which_it_is_not_known_how_often_it_turns_needs_to_be_told():
    parts = hlo.computations(TEXT.replace('{"known_trip_count":{"n":"5"}}', "{}"))
    with pytest.raises(ValueError, match="how often a loop turns is not known: %w"):
        hlo.counted(parts)
    assert hlo.counted(parts, steps=3)["products"]["operations"] == 3


def test_the_compilers_own_text_is_read():
    """Of a CPU's program: a product, in a loop of seven."""
    side = 48

    def program(x):
        return jax.lax.fori_loop(0, 7, lambda i, y: jnp.tanh(y @ x), x)

    text = jax.jit(program).lower(jax.ShapeDtypeStruct((side, side), jnp.float32)).compile().as_text()
    found = hlo.counted(hlo.computations(text), steps=7)
    assert found["products"]["operations"] == 7 and found["products"]["bytes"] == 7 * 3 * 4 * side**2
    assert hlo.size("(f32[2,3]{1,0:T(8,128)(2,1)}, (bf16[4], pred[])) ") == 24 + 8 + 1

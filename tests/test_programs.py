"""What the compiler is given and makes: laws of the lowered programs, which hold on chips that no test runs on."""

import functools
import re

import jax
import numpy as np
import pytest
from conftest import CLASSES, tiny

from cdm import config as configs
from cdm import devices
from cdm.cascade import _arguments, _kind, _plan, _program
from cdm.describe import describe
from cdm.nn import convolution
from cdm.settings import settings_of
from cdm.stage import Stage
from cdm.training import mesh
from cdm.training import state as states

SIZE, BATCH = 16, 4
CHIPS = ("cuda", "tpu")


def stage_of(kind, **model):
    config = tiny(configs.sr_stage("sr_16", 8, SIZE) if kind == "sr" else configs.base_stage("base_16", SIZE))
    with config.unlocked():
        config.dtype = "bfloat16"
        config.model.update(model)
    return Stage(config, CLASSES)


def traced(stage):
    """The training step as cdm.training.loop jits it, traced, and the shapes of its state."""
    state = jax.eval_shape(functools.partial(states.create, stage))
    batch = {**stage.batch(BATCH), "stop": jax.ShapeDtypeStruct((BATCH,), bool)}
    step = functools.partial(states.step, stage, mesh.Partition(stage.config), None)
    return jax.jit(step, donate_argnums=0).trace(state, batch), state


@functools.cache
def step_text(kind, chip):
    with convolution.plain():  # as these chips have it; the CPU that traces has forms of its own
        return traced(stage_of(kind))[0].lower(lowering_platforms=(chip,)).as_text()


@functools.cache
def sampler_text(chip):
    """The program of a guided super-resolution stage, as the runner has it."""
    stage = stage_of("sr")
    stage.params = jax.eval_shape(stage.init)
    settings = settings_of(stage, guidance=2.0)
    label = np.zeros(BATCH, np.int32)
    alone = devices.mesh()
    arguments = _arguments(alone, stage, settings, 0, label, label, np.zeros((BATCH, 8, 8, 3), np.float32),
                           _plan(stage, settings))
    with convolution.plain():
        return _program(alone, stage, _kind(settings, None)).trace((stage.params, None), *arguments).lower(
            lowering_platforms=(chip,)).as_text()


def operations(text, name):
    """The types, [operands..., result], of all operations of a name in a StableHLO program."""
    found = re.findall(rf"stablehlo\.{name}\b.*?: \((.*?)\) -> (tensor<\S+>)", text)
    return [[re.match(r"tensor<(.*)>", part)[1] for part in (*operands.split(", "), result)]
            for operands, result in found]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("kind", ("base", "sr"))
def test_a_step_of_bfloat16_convolves_in_bfloat16(kind, chip):
    """But for the last convolution, to the three colours, which is float32 in the forward and the backward pass."""
    found = operations(step_text(kind, chip), "convolution")
    wide = [types for types in found if any("f32" in one and "bf16" not in one for one in types)]
    assert len(found) > 70 and len(wide) == 3
    assert all(any(one.endswith("x3xf32") for one in types) for types in wide)
    # Nor are parameters multiplied in float32; attention's softmax and the one resize are.
    channels = {8, 16, 32}
    for left, right, _ in operations(step_text(kind, chip), "dot_general"):
        sides = [tuple(map(int, one.split("x")[:-1])) for one in (left, right)]
        if len(sides[1]) == 2 and set(sides[1]) <= channels and sides[0][-1] in channels:
            assert "bf16" in left or 3 in sides[0]


@pytest.mark.parametrize("chip", CHIPS)
def test_nothing_is_transposed_between_convolutions(chip):
    """The one resize of pictures and weights of dense layers are; no activation [B, H, W, C] is."""
    for operand, _ in operations(step_text("sr", chip), "transpose"):
        shape = operand.split("x")
        assert len(shape) == 3 or "3" in shape[:-1], operand


@pytest.mark.parametrize("chip", CHIPS)
def test_no_program_calls_the_host(chip):
    for text in (step_text("base", chip), step_text("sr", chip), sampler_text(chip)):
        assert not re.search(r"callback|infeed|outfeed|stablehlo\.send|stablehlo\.recv", text)
    assert len(re.findall(r"stablehlo\.while", sampler_text(chip))) >= 1  # the steps of a sampler: one program


def test_guidance_is_one_call_of_the_network_on_both_halves():
    shapes = {one[0] for one in operations(sampler_text("cuda"), "convolution")}
    assert shapes and all(shape.startswith(f"{2 * BATCH}x") for shape in shapes)


@pytest.mark.slow
def test_the_compiled_step_is_as_long_as_described_and_reuses_its_state():
    stage = stage_of("sr", channels=32)
    with stage.config.unlocked():
        stage.config.dtype = "float32"
    stage = Stage(stage.config, CLASSES)
    with convolution.plain():
        step, state = traced(stage)
        compiled = step.lower().compile()
    told = BATCH * describe(stage.config, CLASSES)["flops_per_image"]["train"]
    assert compiled.cost_analysis()["flops"] == pytest.approx(told, rel=0.05)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    for one in (compiled, traced(stage)[0].lower().compile()):  # and that of a CPU's forms
        assert one.memory_analysis().alias_size_in_bytes == size  # donated to the last byte

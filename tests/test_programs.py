"""What the compiler is given and makes: laws of the lowered programs, which hold on chips that no test runs on."""

import functools
import math
import os
import pathlib
import re

import jax
import numpy as np
import pytest
from conftest import CLASSES, run_script, tiny

from cdm import config as configs
from cdm import devices
from cdm.cascade import _arguments, _kind, _plan, _program
from cdm.describe import describe
from cdm.nn import convolution
from cdm.settings import settings_of
from cdm.stage import Stage
from cdm.training import mesh
from cdm.training import state as states

SIZE, BATCH = 16, 5  # no channel is 5 or 10
CHIPS = ("cuda", "tpu")
FORMS = {"cuda": "gpu", "tpu": "tpu"}  # as devices of these call their platform


def stage_of(kind, **model):
    config = tiny(configs.sr_stage("sr_16", 8, SIZE) if kind == "sr" else configs.base_stage("base_16", SIZE))
    with config.unlocked():
        config.dtype, config.model.heads = "bfloat16", 4  # too narrow for cuDNN's attention, which needs its library
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
    with convolution.traced_for(FORMS[chip]):
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
    with convolution.traced_for(FORMS[chip]):
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


@pytest.mark.parametrize("chip", CHIPS)
def test_a_sampler_casts_parameters_before_its_loop(chip):
    """What it casts in it is activations; parameters that stay float32 are of one axis, and the last kernel."""
    loop = sampler_text(chip).split("stablehlo.while", 1)[1]
    cast = [operand for operand, result in operations(loop, "convert") if "f32" in operand and "bf16" in result]
    assert cast and all(f"{2 * BATCH}x" in operand for operand in cast)


@pytest.mark.parametrize("chip", CHIPS)
def test_no_step_scatters_but_into_the_table_of_classes(chip):
    assert step_text("base", chip).count('"stablehlo.scatter"(') == 1


STEPS = r"""
import functools, json, re, sys
import jax, numpy as np
from cdm import config as configs
from cdm.nn import convolution
from cdm.stage import Stage
from cdm.training import mesh
from cdm.training import state as states
from conftest import CLASSES, tiny
config = tiny(configs.base_stage("base_8", 8))
with config.unlocked():
    config.mesh.fsdp, config.train.batch_size, config.model.channels = int(sys.argv[1]), 8, 32
stage, random = Stage(config, CLASSES), np.random.default_rng(0)
partition = mesh.Partition(config)
create = functools.partial(states.create, stage)
shardings = partition.shardings(jax.eval_shape(create))
batch = partition.batch({"image": random.integers(0, 256, (8, 8, 8, 3), np.uint8), "label": np.arange(8) % 3,
                         "index": np.arange(8, dtype=np.uint32), "stop": np.zeros(8, bool)})
made, talk = [], []
for forms in (convolution.traced_for("gpu"), convolution.plain()):
    with forms:
        step = jax.jit(functools.partial(states.step, stage, partition, None), out_shardings=(shardings, None))
        state = jax.jit(create, out_shardings=shardings)()
        text = step.lower(state, batch).compile().as_text()
        talk.append({name: len(re.findall(f" {name}[-.a-z]*\(", text)) for name in ("all-gather", "all-reduce",
                     "reduce-scatter", "all-to-all", "collective-permute")})
        for _ in range(3):
            state, metrics = step(state, batch)
        made.append(jax.tree.map(np.asarray, (state.params, state.optimizer, metrics["gradient_norm"])))
with config.unlocked():
    config.dtype = "bfloat16"
stage = Stage(config, CLASSES)
text = jax.jit(functools.partial(states.step, stage, partition, None)).lower(jax.eval_shape(create), batch).as_text()
cast = len(re.findall(r'sdy\.sharding_constraint .*"fsdp".*xbf16>', text))
far = jax.tree.map(lambda one, other: float(np.abs(one - other).max() / (1e-6 + np.abs(other).max())), *made)
print(json.dumps([len(jax.devices()), max(jax.tree.leaves(far)), talk, cast]))
"""


@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_gpus_step_is_that_of_others_and_its_devices_tell_each_other_no_more(fsdp):
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    devices, far, (gpu, other), cast = run_script(STEPS, fsdp, JAX_NUM_CPU_DEVICES="4", PYTHONPATH=path)
    assert devices == 4 and far < 1e-3
    assert gpu == other and gpu["all-reduce"] > 0
    if fsdp == 1:  # gradients and norms, and nothing of a batch
        assert sum(gpu.values()) == gpu["all-reduce"] and cast == 0
    else:  # parameters are cast where they lie, before they are gathered
        assert cast > 10


@pytest.mark.parametrize("kind", ("base", "sr"))
def test_a_gpu_alone_lays_kernels_gradients_as_the_kernels_lie(kind):
    kernels = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(stage_of(kind).init)) if leaf.ndim == 4]
    laid = {chip: re.findall(r"optimization_barrier %\S+ : tensor<(\d+)xf32>", step_text(kind, chip)) for chip in CHIPS}
    assert sorted(map(int, laid["cuda"])) == sorted(map(math.prod, kernels)) and not laid["tpu"]


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

"""Checkpoints of ADM become stages: equal to a PyTorch network written from the paper (golden/make_adm.py), tensor by
tensor, and refused in a line that names the tensor or the flag."""

import collections
import io
import json
import math
import pathlib
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fake import fake

from cdm import config as configs
from cdm.cascade import load_cascade, sample_stage
from cdm.cli import main
from cdm.diffusion import samplers
from cdm.interop import adm
from cdm.settings import plan, settings_of
from cdm.stage import Stage, flatten, load_stage

GOLDEN = pathlib.Path(__file__).with_name("golden")
CASES = ("new_order", "legacy", "between", "upsampler")


class FloatStorage:
    """Its name in PyTorch's pickles."""


def _rebuild_tensor_v2():
    """Its name in PyTorch's pickles."""


class Storage:
    def __init__(self, key, size):
        self.key, self.size = key, size


class Tensor:
    def __init__(self, storage, offset, shape):
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        self.arguments = storage, offset, shape, strides, False, collections.OrderedDict()

    def __reduce__(self):
        return _rebuild_tensor_v2, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return ("storage", FloatStorage, value.key, "cpu", value.size) if isinstance(value, Storage) else None


def write_torch(path, state, shared=False):
    """A state dict as PyTorch writes it, each tensor in a storage of its own or all in one."""
    tensors, storages, offset = collections.OrderedDict(), {}, 0
    whole = Storage("0", sum(value.size for value in state.values()))
    for i, (name, value) in enumerate(state.items()):
        storage = whole if shared else Storage(str(i), value.size)
        tensors[name] = Tensor(storage, offset if shared else 0, value.shape)
        storages.setdefault(storage.key, []).append(value.tobytes())
        offset += value.size
    pickled = io.BytesIO()
    Pickler(pickled, protocol=2).dump(tensors)
    pickled = pickled.getvalue()
    for name, module in (("FloatStorage", "torch"), ("_rebuild_tensor_v2", "torch._utils")):
        pickled = pickled.replace(f"c{__name__}\n{name}\n".encode(), f"c{module}\n{name}\n".encode())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, parts in storages.items():
            archive.writestr(f"archive/data/{key}", b"".join(parts))
    return path


def read_golden(case):
    """(the golden file, flags, the state dict of its fake weights)."""
    golden = dict(np.load(GOLDEN / f"adm_{case}.npz"))
    names, shapes = (json.loads(str(golden.pop(key))) for key in ("names", "shapes"))
    return golden, str(golden.pop("flags")), {name: fake(name, tuple(s)) for name, s in zip(names, shapes, strict=True)}


@pytest.fixture(scope="module", params=CASES)
def imported(request, tmp_path_factory):
    """(golden file, Stage from the folder that `cdm import adm` made)."""
    folder = tmp_path_factory.mktemp(request.param)
    golden, flags, state = read_golden(request.param)
    assert main(["import", "adm", str(write_torch(folder / "model.pt", state)), "--flags", flags,
                 "--out", str(folder / "stage")]) == 0
    return golden, load_stage(folder / "stage")


def known(stage, golden):
    """What the network is told beside x and the level."""
    lowres, clean = golden["lowres"], np.full(2, 20, np.float32)
    return (golden["labels"].astype(np.int32), *((lowres, clean) if stage.lowres_size else (None, None)))


def test_outputs_equal_pytorchs(imported):
    golden, stage = imported
    levels = np.float32(stage.schedule.table[golden["t"]])
    found = np.asarray(jax.jit(stage.network.apply)(stage.params, golden["x"], levels, *known(stage, golden)))
    assert found.shape == golden["output"].shape and np.ptp(golden["output"]) > 1
    print(f"{stage.name}: {np.abs(found - golden['output']).max():.1e}")
    np.testing.assert_allclose(found, golden["output"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(1 / (1 + np.exp(-stage.schedule.table[golden["t"]])), golden["abar"], rtol=1e-9)


def test_a_step_equals_one_of_ancestral_sampling(imported):
    golden, stage = imported
    schedule = plan(stage, settings_of(stage, steps=1000))
    row = int(np.flatnonzero(schedule.logsnr[:1000] == np.float32(stage.schedule.table[golden["t"][1]])).item())
    assert row == 999 - golden["t"][1]

    def step(params, x, noise):
        denoise = stage.denoiser(params, *known(stage, golden))
        return samplers.step(schedule, denoise, lambda i: noise, row, (x, jnp.zeros_like(x)))[0]

    found = jax.jit(step)(stage.params, golden["x"], golden["noise"])
    print(f"{stage.name}: {np.abs(found - golden['step']).max():.1e}")
    np.testing.assert_allclose(found, golden["step"], atol=1e-4, rtol=0)


def test_the_class_and_the_timestep_have_a_say(imported):
    golden, stage = imported
    apply, told = jax.jit(stage.network.apply), known(stage, golden)
    levels = np.float32(stage.schedule.table[golden["t"]])
    output = apply(stage.params, golden["x"], levels, *told)
    assert np.abs(output - apply(stage.params, golden["x"], levels[::-1], *told)).max() > 0.01
    if stage.classes:
        assert np.abs(output - apply(stage.params, golden["x"], levels, told[0][::-1], *told[1:])).max() > 0.01


def test_an_upsampler_hears_nothing_of_augmentation_until_it_is_trained(tmp_path):
    stage = imported_stage("upsampler", tmp_path)
    flat = flatten(stage.params)
    for leaf in ("kernel", "bias"):
        np.testing.assert_array_equal(flat[f"aug_embed_0/{leaf}"], flat[f"time_embed_0/{leaf}"])
        assert not np.any(flat[f"aug_embed_2/{leaf}"])
    assert not np.any(flat["label_emb/embedding"][-1])
    with pytest.raises(ValueError, match="aug_level"):
        settings_of(stage, aug_level=0.1)
    with pytest.raises(ValueError, match="trained without the null class"):
        settings_of(stage, guidance=1.0)


def imported_stage(case, folder, **options):
    _, flags, state = read_golden(case)
    adm.import_stage(write_torch(folder / "model.pt", state, **options), folder / "stage", flags)
    return load_stage(folder / "stage")


def test_what_is_imported_samples(tmp_path):
    imported_stage("new_order", tmp_path)
    assert main(["sample", "--cascade", str(tmp_path / "stage"), "--class", "3", "-n", "2", "--steps", "2",
                 "--out", str(tmp_path / "samples")]) == 0
    assert len(list((tmp_path / "samples").glob("3*.png"))) == 2
    assert load_cascade(tmp_path / "stage").settings()[0].variance == "learned"


def test_an_upsampler_samples(tmp_path):
    stage = imported_stage("upsampler", tmp_path)
    lowres = np.random.default_rng(0).uniform(-1, 1, (1, 4, 4, 3))
    images = sample_stage(stage, [3], lowres=lowres, steps=2)
    assert images.shape == (1, 16, 16, 3) and np.all(np.isfinite(images)) and np.ptp(images) > 0.1


def test_tensors_that_share_a_storage_are_read(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    apart, together = (flatten(imported_stage("between", tmp_path / name, shared=shared).params)
                       for name, shared in (("a", False), ("b", True)))
    assert apart.keys() == together.keys()
    for name, value in apart.items():
        np.testing.assert_array_equal(value, together[name])


# Millions, from the paper's tables of hyperparameters.
COUNTS = {"64x64_diffusion": 296, "128x128_diffusion": 422, "256x256_diffusion": 554, "512x512_diffusion": 559,
          "64_256_upsampler": 312, "128_512_upsampler": 309}


@pytest.mark.parametrize("name", COUNTS)
def test_the_published_networks_have_their_sizes(name):
    flags = adm.parse_flags(name)
    parameters = adm.sources(Stage(adm.config_of(flags), [str(i) for i in range(1000)]))
    shapes = {tensor: shape for _, tensor, shape in parameters.values()}
    count = sum(math.prod(shape) for shape in shapes.values())
    print(name, count)
    assert round(count / 1e6) == COUNTS[name]
    assert shapes["out.2.weight"][0] == 6 and shapes["label_emb.weight"][0] == 1000
    assert shapes["input_blocks.0.0.weight"][1] == (6 if flags.large_size else 3)


@pytest.mark.parametrize("name", adm.PUBLISHED)
def test_flags_of_the_published_files_are_a_config(name):
    config = adm.config_of(adm.parse_flags(name))
    assert configs.from_dict(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()


def test_flags_are_read_as_guided_diffusions_scripts_read_them():
    text = ("--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1 --image_size 64 "
            "--learn_sigma True --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks=3 "
            "--resblock_updown True --use_new_attention_order True --use_fp16 true --use_scale_shift_norm=True")
    assert adm.parse_flags(text) == adm.PUBLISHED["64x64_diffusion"]._replace(use_fp16=True)


@pytest.mark.parametrize("flags, message", [
    ("model", "`flags` (=model) must be guided-diffusion's"),
    ("--image_size", "`flags` (=--image_size) must be guided-diffusion's"),
    ("--image_sise 64", "`flags`: image_sise (=64) must be one of a model's: image_size"),
    ("--image_size big", "`flags`: image_size (=big) must be a number"),
    ("--class_cond maybe", "`flags`: class_cond (=maybe) must be True or False"),
    ("--image_size 96", "`flags`: image_size (=96) must be one of 64, 128, 256, 512"),
    ("--large_size 64", "`flags`: small_size (=0) must be below large_size (=64)"),
    ("--num_channels 64", "`flags`: num_channels (=64) must make all widths multiples of 32 from 128 on"),
    ("--num_channels 200", "`flags`: num_channels (=200) must make all widths multiples of 32 from 128 on"),
    ("--channel_mult 1,a", "`flags`: channel_mult (=1,a) must be numbers"),
    ("--attention_resolutions 24", "`flags`: attention_resolutions (=24) must divide 64"),
    ("--attention_resolutions 4", "`flags`: attention_resolutions (=4) must divide 64"),
    ("--num_heads_upsample 2", "`flags`: num_heads_upsample (=2) must be num_heads"),
    ("--noise_schedule sqrt", "`flags`: noise_schedule (=sqrt) must be linear or cosine"),
    ("--rescale_timesteps True --diffusion_steps 4000", "`flags`: rescale_timesteps (=True) must be False"),
])
def test_wrong_flags_are_a_line_that_names_them(flags, message, tmp_path, capsys):
    assert main(["import", "adm", "model.pt", f"--flags={flags}", "--out", str(tmp_path / "stage")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def without(state):
    del state["middle_block.1.qkv.bias"]


def with_more(state):
    state["input_blocks.1.1.norm.weight"] = np.ones(128, np.float32)


def of_another_shape(state):
    state["time_embed.2.weight"] = state["time_embed.2.weight"][:, :-1].copy()


@pytest.mark.parametrize("change, message", [
    (without, "middle_block.1.qkv.bias is missing, they want (768,)"),
    (with_more, "input_blocks.1.1.norm.weight is (128,), they want none"),
    (of_another_shape, "time_embed.2.weight is (512, 511), they want (512, 512)"),
])
def test_tensors_of_another_network_are_a_line_that_names_the_first(change, message, tmp_path, capsys):
    _, flags, state = read_golden("between")
    change(state)
    path = write_torch(tmp_path / "model.pt", state)
    assert main(["import", "adm", str(path), "--flags", flags, "--out", str(tmp_path / "stage")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "stage").exists()


def test_a_damaged_checkpoint_is_refused(tmp_path):
    _, flags, state = read_golden("between")
    data = bytearray(write_torch(tmp_path / "model.pt", state).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.pt").write_bytes(data)
    for path in (tmp_path / "model.pt", tmp_path / "nowhere.pt", GOLDEN / "make.py"):
        with pytest.raises(ValueError, match=r"`checkpoint` \(=.*\) must be a whole file of weights"):
            adm.import_stage(path, tmp_path / "stage", flags)
    assert not (tmp_path / "stage").exists()

"""The devices of a batch: how many, and that nothing depends on them."""

import numpy as np
import pytest
from conftest import run_script

from cdm.cascade import count_labels, sample_stage
from cdm.cli import parser
from cdm.devices import GAIN, ROOM, cores
from cdm.upscaling import enlarge


MESHES = """
import json, numpy as np
from cdm import devices
params = {"kernel": np.empty(devices.ROOM // 3, np.uint8)}
counts = range(1, 60)
print(json.dumps([[devices.mesh(n).size for n in counts], [devices.batch(n, 8) for n in counts],
                  devices.mesh(48, params).size, devices.mesh().size]))
"""


def test_a_batch_is_on_all_devices_where_they_have_done_with_it_first():
    sizes, batches, with_copies, every = run_script(MESHES, JAX_NUM_CPU_DEVICES="6")

    def time(n, devices):  # in that of an item on the whole CPU
        return np.ceil(n / devices) * devices / (GAIN if devices > 1 else 1)

    for n, size in enumerate(sizes, start=1):
        assert size in (1, 6) and time(n, size) == min(time(n, other) for other in (1, 6))
    assert sizes[:6] == [1, 1, 1, 1, 1, 6]
    assert with_copies == 1 and ROOM == 2**30  # there is no room for six copies
    assert every == 6
    for n, batch in enumerate(batches, start=1):
        assert batch <= 9 and batch <= n
        taken = {b: np.ceil(n / b) * time(b, sizes[b - 1]) for b in range(min(5, n), min(9, n) + 1)}
        assert taken[batch] == min(taken.values())
    assert batches[5] == 6 and batches[8] == 9 and batches[11] == 6


CORES = """
import jax, sys
from cdm import devices
if sys.argv[1] == "used":
    jax.devices()
devices.of_cores()
print(len(jax.devices()))
"""


def test_cores_are_devices_unless_the_user_said_or_did_otherwise():
    assert run_script(CORES, "fresh") == cores()
    assert run_script(CORES, "used") == 1
    assert run_script(CORES, "fresh", JAX_NUM_CPU_DEVICES="1") == 1
    assert run_script(CORES, "fresh", XLA_FLAGS="--xla_force_host_platform_device_count=3") == 3


MAIN = """
import sys, jax
from cdm.cli import main
assert main(sys.argv[1:]) == 2
print(len(jax.devices()))
"""


def test_commands_that_draw_have_cores_as_devices_and_training_has_not(tmp_path):
    def draws(line):
        return parser().parse_args(line.split()).draws

    assert all(map(draws, ("demo", "sample --out a", "upscale a --out b --scale 2", "eval cascade --data b --out c",
                           "tune --cascade a --data b --workdir c", "eval restoration --data a --out b")))
    assert not any(map(draws, ("train --config a --workdir b", "describe --config a")))
    # Until they find that there is nothing to read.
    assert run_script(MAIN, *"sample --cascade nothing --class 0 --out".split(), tmp_path / "a") == cores()
    assert run_script(MAIN, *"train --config nothing.py --workdir".split(), tmp_path / "b") == 1


PICTURES = """
import json, re, sys, jax, numpy as np, cdm
from cdm import cascade as runner, devices, upscaling
devices.cores = lambda: len(jax.devices()) + (sys.argv[3] == "of more cores")
runner.PIXELS = 16 * 16 * 2  # turns: of the last stage a picture, of the one before two
cascade = cdm.load_cascade(sys.argv[1])
labels, image = [0, 1, 2, 0, 0, 1, 2, 2], np.load(sys.argv[2] + "/image.npy")
meshes, made = set(), {}
program = runner._program
runner._program = lambda mesh, *kind: meshes.add(mesh.size) or program(mesh, *kind)
for batch in (8, 7, 4, 3):  # of four devices, with a picture too many, in part, and of one device
    made[f"split {batch}"] = cascade.sample(labels, seed=7, batch_size=batch)
parts = list(cascade.run(np.array(labels), runner.count_labels(labels), 7, cascade.settings(guidance=2.0), previews=2))
made["ways"] = np.concatenate([ways["sr_16"] for *_, ways in parts])
made["alone"] = runner.sample_stage(cascade.stages[0], labels, seed=7)
for n in (None, 1, 3, 16):
    made[f"larger {n}"] = upscaling.enlarge(image, cascade.stages[1:2], (42, 40), window_batch=n, label="food",
                                            guidance=1.0).image
np.savez(sys.argv[2] + "/made.npz", **made)
compiled = [made.func.as_text() for made in cascade._programs.values()]
print(json.dumps([sorted(meshes), [re.findall("all-(?:gather|reduce|to-all)|collective-permute", text)
                                   for text in compiled]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("which", ["a core each", "of more cores"])
def test_several_devices_give_the_pictures_of_one_and_tell_each_other_nothing(cascade, tmp_path, which):
    cascade.save(tmp_path / "cascade")
    image = np.random.default_rng(0).uniform(-1, 1, (21, 20, 3)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    meshes, talk = run_script(PICTURES, tmp_path / "cascade", tmp_path, which, JAX_NUM_CPU_DEVICES="4")
    assert meshes == [1, 4] and len(talk) >= 6 and not any(talk)
    made = np.load(tmp_path / "made.npz")
    labels = [0, 1, 2, 0, 0, 1, 2, 2]
    one = cascade.sample(labels, seed=7)
    for batch in (8, 7, 4, 3):
        assert np.mean(np.abs(made[f"split {batch}"].astype(int) - one) <= 1) >= 0.999
    parts = list(cascade.run(np.array(labels), count_labels(labels), 7, cascade.settings(guidance=2.0), previews=2))
    np.testing.assert_allclose(made["ways"], np.concatenate([ways["sr_16"] for *_, ways in parts]), atol=1e-3)
    np.testing.assert_allclose(made["alone"], sample_stage(cascade.stages[0], labels, seed=7), atol=1e-3)
    larger = enlarge(image, cascade.stages[1:2], (42, 40), label="food", guidance=1.0).image
    for n in (None, 1, 3, 16):
        np.testing.assert_allclose(made[f"larger {n}"], larger, atol=1e-3)

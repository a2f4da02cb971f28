"""Training from outside: killed, stopped, on many devices, in several processes. Real processes of the command line."""

import concurrent.futures
import functools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from test_training import rows, saved

from cdm.stage import flatten, load_stage
from cdm.training import run as runs
from cdm.training import state as states
from cdm.training.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

CONFIG = """
import json
from ml_collections import ConfigDict
def get_config():
    return ConfigDict(json.load(open({path!r}))["config"])
"""


@pytest.fixture(scope="module")
def config(run, tmp_path_factory):
    """The file of the config of the fixture `run`."""
    path = tmp_path_factory.mktemp("config") / "config.py"
    path.write_text(CONFIG.format(path=str(run / "config.json")))
    return path


def start(config, workdir, *arguments, devices=1, within=(), **named):
    """A process of `cdm train`, started by the command `within`."""
    env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
           "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir, "JAX_PLATFORMS": "cpu",
           "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    overrides = [f"--config.{name}={value}" for name, value in named.items()]
    command = [sys.executable, "-m", "cdm.cli", "train", f"--config={config}", f"--workdir={workdir}", *overrides]
    return subprocess.Popen([*within, *command, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def finish(process, timeout=300):
    """(exit code, what it said, errors last) of a process."""
    try:
        said = "".join(process.communicate(timeout=timeout))
    finally:
        process.kill()
    return process.returncode, said


def finish_all(processes):
    """`finish` of each, all at once, so that none waits for a reader."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(finish, processes))


def checkpoints(workdir):
    """The whole ones."""
    return [path for path in workdir.glob("checkpoints/*") if path.name.isdigit()]


def progress(workdir):
    return len((workdir / "metrics.jsonl").read_text().splitlines()) if (workdir / "metrics.jsonl").exists() else 0


def assert_same_state(workdir, other, images):
    jax.tree.map(np.testing.assert_array_equal, saved(workdir, images), saved(other, images))
    like = jax.eval_shape(functools.partial(states.create, runs.open_run(workdir))).power
    found = []
    for folder in (workdir, other):
        with Checkpoints(folder, "snapshots") as kept:
            found.append({at: jax.device_get(kept.restore(at, like)) for at in kept.all()})
    jax.tree.map(np.testing.assert_array_equal, *found)


def assert_near(workdir, other, images):
    """The same but for the order of sums: parameters went the same way, and every row tells of the same loss."""
    first = flatten(jax.device_get(jax.jit(runs.open_run(workdir).init)()))
    here, there = (flatten(saved(folder, images).params) for folder in (workdir, other))
    moved = sum(np.sum((there[name] - first[name]) ** 2) for name in first)
    apart = sum(np.sum((there[name] - here[name]) ** 2) for name in first)
    assert apart < 1e-2 * moved
    for row, wanted in zip(rows(workdir), rows(other), strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-2)


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """A run of 400 images that nobody touched; its checkpoints are every 8 images, so a kill is often within a save."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    code, errors = finish(start(config, workdir, **{"train.images": 400}))
    assert code == 0, errors
    return workdir


def test_a_run_killed_at_random_moments_ends_as_one_never_killed(config, straight, tmp_path):
    draw, kills = random.Random(0), 0
    while kills < 3:
        process = start(config, tmp_path / "run", **{"train.images": 400})
        begun = progress(tmp_path / "run")
        until = time.monotonic() + 120
        while process.poll() is None and progress(tmp_path / "run") <= begun and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
        kills += 1
    code, errors = finish(start(config, tmp_path / "run", **{"train.images": 400}))
    assert code == 0, errors
    assert_same_state(tmp_path / "run", straight, 400)
    assert rows(tmp_path / "run") == rows(straight)


def test_sigterm_saves_says_so_and_exits_75(config, straight, tmp_path):
    process = start(config, tmp_path / "run", **{"train.images": 400})
    until = time.monotonic() + 120
    while process.poll() is None and not progress(tmp_path / "run") and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, errors = finish(process)
    assert code == 75 and "was asked to stop and is saved at" in errors.splitlines()[-1], errors
    code, errors = finish(start(config, tmp_path / "run", **{"train.images": 400}))
    assert code == 0 and "resumed from" in errors, errors
    assert_same_state(tmp_path / "run", straight, 400)
    assert rows(tmp_path / "run") == rows(straight)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(config, run, straight, tmp_path):
    """A limit of the size of files stands for the disk: a checkpoint has larger ones, nothing else of a run has."""
    limited = ("bash", "-c", 'ulimit -f 64 && exec "$@"', "bash")
    shutil.copytree(run, tmp_path / "run")
    code, errors = finish(start(config, tmp_path / "run", within=limited, **{"train.images": 400}))
    assert code == 2 and "Traceback" not in errors, errors
    assert re.fullmatch("cdm: `workdir` .* did not take a checkpoint, the one at 32 images is untouched: "
                        ".*File too large", errors.splitlines()[-1]), errors
    assert_same_state(tmp_path / "run", run, 32)
    code, errors = finish(start(config, tmp_path / "run", **{"train.images": 400}))
    assert code == 0 and "resumed from 32" in errors, errors
    assert_same_state(tmp_path / "run", straight, 400)
    assert rows(tmp_path / "run") == rows(straight)


# What lets root write where modes forbid it is taken from the process.
BOUND = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()


@pytest.mark.skipif(bool(BOUND) and not shutil.which("setpriv"), reason="root writes everywhere")
def test_a_folder_that_is_read_only_is_one_line_and_left_as_it_is(config, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    everything = [tmp_path / "run", *(tmp_path / "run").rglob("*")]
    modes = {path: path.stat().st_mode for path in everything}
    for path in everything:
        path.chmod(modes[path] & ~0o222)
    for workdir in (tmp_path / "run", tmp_path / "run" / "new"):
        code, errors = finish(start(config, workdir, within=BOUND, **{"train.images": 40}))
        assert code == 2 and len(errors.splitlines()) == 1, errors
        assert f"`workdir` (={workdir}) must be a folder that can be written: Permission denied" in errors
    assert sorted(everything[1:]) == sorted((tmp_path / "run").rglob("*"))
    for path, mode in modes.items():
        path.chmod(mode)
    code, errors = finish(start(config, tmp_path / "run", **{"train.images": 40}))
    assert code == 0 and "resumed from 32" in errors, errors


@pytest.mark.parametrize("fsdp, fewer", [(1, [1]), (4, [1, 2, 4])])
def test_a_run_on_eight_devices_goes_on_on_fewer_and_is_the_same(config, tmp_path, fsdp, fewer):
    options = {"train.batch_size": 8, "train.images": 32, "checkpoint.every": 8}
    code, errors = finish(start(config, tmp_path / "one", **options))
    assert code == 0, errors
    half = {**options, "train.images": 16, "mesh.fsdp": fsdp}
    code, errors = finish(start(config, tmp_path / "8", devices=8, **half))
    assert code == 0, errors
    for devices in fewer:
        workdir = tmp_path / str(devices)
        subprocess.run(["cp", "-r", tmp_path / "8", workdir], check=True)
        code, errors = finish(start(config, workdir, devices=devices, **{**options, "mesh.fsdp": min(fsdp, devices)}))
        assert code == 0 and "resumed from 16" in errors, errors
        assert_near(workdir, tmp_path / "one", 32)


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def job(config, workdir, **named):
    """Two processes of two devices each that meet on this machine."""
    where = f"127.0.0.1:{port()}"
    return [start(config, workdir, "--coordinator", where, "--processes", "2", "--process", str(i), devices=2, **named)
            for i in range(2)]


def test_what_the_first_process_can_not_do_ends_all_with_its_reason(config, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for code, errors in finish_all(job(config, tmp_path / "run", **{"train.seed": 3})):
        assert code == 2 and "these differ: train.seed" in errors.splitlines()[-1], errors


@pytest.mark.parametrize("fsdp", [1, 2])
def test_two_processes_train_the_same_stage(config, run, tmp_path, fsdp):
    for code, errors in finish_all(job(config, tmp_path / "run", **{"mesh.fsdp": fsdp, "log.grid": 32})):
        assert code == 0, errors
    assert_near(tmp_path / "run", run, 32)
    runs.export([tmp_path / "run"], tmp_path / "stage")
    assert load_stage(tmp_path / "stage").facts["images"] == 32


def test_sigterm_to_one_process_saves_all_at_one_step_and_the_job_goes_on(config, straight, tmp_path):
    options = {"train.images": 400, "checkpoint.every": 40}  # saves under way as the signal comes
    processes = job(config, tmp_path / "run", **options)
    until = time.monotonic() + 120
    while all(p.poll() is None for p in processes) and not progress(tmp_path / "run") and time.monotonic() < until:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    for code, errors in finish_all(processes):
        assert code == 75, errors
    code, errors = finish(start(config, tmp_path / "run", **options))  # on one device
    assert code == 0 and "resumed from" in errors, errors
    assert_near(tmp_path / "run", straight, 400)


def test_a_lost_process_ends_the_job_in_time_and_the_job_resumes(config, tmp_path):
    options = {"train.images": 20_000}
    processes = job(config, tmp_path / "run", **options)
    until = time.monotonic() + 120
    while all(p.poll() is None for p in processes) and not checkpoints(tmp_path / "run") and time.monotonic() < until:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    code, errors = finish(processes[0], timeout=120)
    processes[1].communicate()
    assert code not in (0, 75) and time.monotonic() - began < 120
    # What speaks last depends on where it was: our own line, the coordinator's heartbeat, or gloo's when it was in the
    # middle of a message from the lost process, which ends us from a thread of its own.
    assert any(word in errors for word in ("cdm: process 0 ended: ", "heartbeat", "gloo::")), errors
    code, errors = finish(start(config, tmp_path / "run", **{"train.images": 40}))
    assert code == 0 and "resumed from" in errors, errors


def test_a_mesh_that_is_not_the_devices_is_one_line(config, tmp_path):
    for options, rule in (({"mesh.data": 3}, "`mesh.data` (=3) times `mesh.fsdp` (=1) must be the 4 devices"),
                          ({"train.accumulate": 2}, "(=2) must be divisible by the 4 devices")):
        code, errors = finish(start(config, tmp_path / "run", devices=4, **options))
        assert code == 2 and rule in errors.splitlines()[-1], errors
        assert not (tmp_path / "run").exists()

"""The log of a run: rows past the checkpoint are cut, and whoever listens gets the numbers of a row."""

import json
import os
import struct
import subprocess
import sys
import time

import pytest

from cdm.training.log import Log


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write(run, images, writers, *rows):
    """Open a log at `images`, write rows and close it."""
    log = Log(run, images, 100, writers)
    for row in rows:
        log.row(**row)
    log.close()


def test_rows_past_the_checkpoint_and_half_a_line_are_cut(tmp_path):
    write(tmp_path, 0, (), *({"images": images, "loss": 0.5} for images in (10, 20, 30)))
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"images": 15, "lo')
    write(tmp_path, 20, (), {"images": 25, "loss": 0.25})
    assert [row["images"] for row in rows(tmp_path)] == [10, 20, 25]


def test_what_is_not_finite_is_null(tmp_path):
    write(tmp_path, 0, (), {"images": 10, "loss": float("inf"), "loss_by_bin": [0.5, None, float("nan")]})
    assert rows(tmp_path) == [{"images": 10, "loss": None, "loss_by_bin": [0.5, None, None]}]


# What a run writes, is killed, and writes again from its checkpoint at 10 images.
BEFORE = ({"images": 10, "loss": 0.5, "loss_by_bin": [0.75, None]}, {"images": 20, "loss": float("nan")})
AFTER = ({"images": 20, "loss": 0.25, "speed": {"mfu": None, "data_wait": 0.125}},)


def events(run):
    """The events in TensorBoard's files of a run: records of length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((run / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = struct.unpack("<Q", data[:8])[0]
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def test_tensorboard_gets_the_numbers_and_forgets_those_past_the_checkpoint(tmp_path):
    pytest.importorskip("tensorboardX")
    write(tmp_path, 0, ["tensorboard"], *BEFORE)
    write(tmp_path, 10, ["tensorboard"], *AFTER)
    found = list(events(tmp_path))
    numbers = [(event.step, value.tag, value.simple_value) for event in found for value in event.summary.value]
    assert numbers == [(10, "loss", 0.5), (10, "loss_by_bin/0", 0.75), (20, "loss", 0.25),
                       (20, "speed/data_wait", 0.125)]
    assert [event.step for event in found if event.session_log.status == event.session_log.START] == [1, 11]


def records(path):
    """The records of W&B's file: LevelDB's log format after a header of 7 bytes."""
    data, at, record, block = path.read_bytes(), 7, b"", 1 << 15
    while at + 7 <= len(data):
        if block - at % block < 7:  # padding
            at += block - at % block
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part of one
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore")  # theirs, of other packages
def test_wandb_gets_the_numbers_in_one_run_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write(tmp_path, 0, ["wandb"], *BEFORE)
    write(tmp_path, 10, ["wandb"], *AFTER)
    names, found = set(), []
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        names.add(path.stem)
        until, told = time.monotonic() + 30, []  # another process writes it
        while not any(record.HasField("exit") for record in told) and time.monotonic() < until:
            told = [Record.FromString(record) for record in records(path)]
        for record in told:
            items = record.history.item
            found += [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}] * bool(items)
    numbers = [{name: value for name, value in row.items() if not name.startswith("_")} for row in found]
    assert len(names) == 1 and numbers == [
        {"images": 10, "loss": 0.5, "loss_by_bin/0": 0.75}, {"images": 20},
        {"images": 20, "loss": 0.25, "speed/data_wait": 0.125}]


def test_wandb_that_knows_nobody_is_one_line(tmp_path):
    pytest.importorskip("wandb")
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    code = f"from cdm.training.log import Log; Log({str(tmp_path)!r}, 0, 100, ['wandb'])"
    done = subprocess.run([sys.executable, "-c", code], env={**env, "HOME": str(tmp_path), "NETRC": str(tmp_path)},
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stderr.splitlines()[-1].startswith("ValueError: `log.writers` (=wandb) must be able to begin a run")

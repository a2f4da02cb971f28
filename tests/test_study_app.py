"""Laws of a study's page over HTTP, on a real server: nothing tells which picture is real, nothing is lost."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def get(url, data=None):
    """(status, headers, body); with data it is a POST."""
    data = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data)) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, dict(e.headers), e.read()


def begin(url):
    """The address of a new rater's page, through the first page."""
    form = re.search(r'action="(/begin/[^"]+)"', get(url)[2].decode())[1]
    assert get(url + form, b"")[0] == 200
    return f"{url}/r/{form.removeprefix('/begin/')}"


def following(rater):
    status, _, body = get(f"{rater}/next", b"")
    assert status == 200
    return json.loads(body)


def answer(rater, token, side="left", **changed):
    status, _, body = get(f"{rater}/answer", {"token": token, "side": side, "means": "key", "scale": 2,
                                              "reaction_ms": 612.5, "viewed_ms": 3001.0, **changed})
    return json.loads(body) if status == 200 else status


@pytest.mark.parametrize("task", [1, 2])
def test_a_session_shows_each_picture_once_and_nothing_tells_which_is_real(task, make_study, serving):
    store, _ = make_study(task=task)
    pixels, heads, said = store.pixels(), set(), b""
    with serving(store) as url:
        said += get(url)[2]
        rater = begin(url)
        state = following(rater)
        for place in range(6):
            assert set(state) == {"done", "token"} and state["done"] == place
            said += get(rater)[2] + json.dumps(state).encode()
            image, sides = store.pair(state["token"])
            assert set(sides) == {"left", "right"} | ({"middle"} if task == 1 else set())
            for side, version in sides.items():
                status, headers, body = get(f"{url}/picture/{state['token']}/{side}")
                assert status == 200
                assert np.array_equal(np.frombuffer(body, np.uint8).reshape(12, 16, 3), pixels[image, version])
                heads.add(tuple((name, value) for name, value in headers.items() if name != "date"))
            state = answer(rater, state["token"], "right")
        assert state == {"done": 6, "token": None}
        said += get(rater)[2]
    assert len(heads) == 1 and dict(heads.pop())["content-length"] == str(12 * 16 * 3)
    trials = store.trials()
    assert sorted(t["image"] for t in trials) == list(range(6)) and {t["method"] for t in trials} == {0, 1}
    assert {(t["reaction_ms"], t["viewed_ms"], t["scale"], t["means"]) for t in trials} == {(612.5, 3001.0, 2, "key")}
    # No name of a picture or method, and no count of what was right.
    assert b"set/" not in said and not re.search(rb"\b(real|fool|correct|hash|seed)\b", said)
    assert store.protocol["question"].encode() in said and b"Ada &lt;ada@example.org&gt;" in said


def test_nothing_may_be_cached_and_no_cookie_is_set(make_study, serving):
    store, _ = make_study(task=1)
    with serving(store) as url:
        rater = begin(url)
        token = following(rater)["token"]
        for address in (url, rater, f"{url}/study.js", f"{url}/study.css", f"{url}/picture/{token}/left", f"{url}/no"):
            headers = {name.lower() for name in get(address)[1]}
            assert get(address)[1]["cache-control"] == "no-store" and "content-security-policy" in headers
            assert not headers & {"set-cookie", "etag", "last-modified", "content-encoding"}


def test_asking_again_changes_nothing(make_study, serving):
    store, _ = make_study(task=2)
    with serving(store) as url:
        for _ in range(3):
            get(url)
        assert not store.trials()  # who only looks is no rater
        rater = begin(url)
        assert get(f"{url}/begin/{rater[-16:]}", b"")[0] == 200 and len(store.trials()) == 6
        first = following(rater)
        assert following(rater) == first
        second = answer(rater, first["token"], "left")
        assert answer(rater, first["token"], "right") == second  # a double click, a second tab
        assert second["done"] == 1 and second["token"] != first["token"]
    chosen = [t["chosen_side"] for t in store.trials()]
    assert chosen[0] == "left" and chosen[1:] == [None] * 5
    assert [t["handed_out"] for t in store.trials()][:3] == [2, 2, 0]


def test_what_is_not_asked_for_is_not_given(make_study, serving):
    store, _ = make_study(task=2)
    with serving(store) as url:
        rater, other = begin(url), begin(url)
        token = following(rater)["token"]
        later = store._db.execute("SELECT token FROM trial WHERE place = 3").fetchone()[0]
        assert get(f"{url}/picture/{token}/left")[0] == 200
        for path in ("middle", "real"):
            assert get(f"{url}/picture/{token}/{path}")[0] == 404
        assert get(f"{url}/picture/{later}/left")[0] == 404 == answer(rater, later)
        assert answer(other, token) == 404 == answer(rater, "none")
        assert get(f"{url}/r/{'x' * 16}")[0] == 404 == get(f"{url}/r/{'x' * 16}/next", b"")[0]
        assert get(f"{url}/begin/short", b"")[0] == 404 and get(f"{url}/begin/{'x' * 16}")[0] == 405
        for changed in (dict(side="middle"), dict(side=["left"]), dict(means="nose"), dict(scale=0), dict(scale=True),
                        dict(reaction_ms=-1), dict(viewed_ms=float("nan")), dict(viewed_ms=None), dict(token=7)):
            assert answer(rater, **{"token": token, **changed}) == 400
        for body in (b"", b"[]", b"{}", b"\xff", b"7"):
            assert get(f"{rater}/answer", body)[0] == 400
        assert get(f"{rater}/answer", b"0" * 2000)[0] == 413
        assert answer(rater, token)["done"] == 1
        assert get(f"{url}/picture/{token}/left")[0] == 404  # which was answered


@contextlib.contextmanager
def process(*arguments):
    """(process, address) of `cdm study serve`."""
    command = [sys.executable, "-m", "cdm.cli", "study", "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}) as server:
        try:
            yield server, re.search(r"http://\S+[0-9]", server.stdout.readline())[0]
        finally:
            server.kill()


def test_a_server_that_is_killed_loses_nothing(study_folders, tmp_path):
    path = tmp_path / "s.sqlite"
    with process("--store", path, "--task", 1, "--real", study_folders / "real", "--lowres", study_folders / "lowres",
                 "--methods", f"a={study_folders / 'a'}", f"b={study_folders / 'b'}") as (server, url):
        rater = begin(url)
        state = following(rater)
        for _ in range(3):
            state = answer(rater, state["token"])
        server.kill()
        assert server.wait() == -signal.SIGKILL
    with process("--store", path) as (server, again):  # the file is the study
        rater = rater.replace(url, again)
        assert following(rater) == state and state["done"] == 3
        while state["token"]:
            state = answer(rater, state["token"])
        server.terminate()
        assert server.wait() == 75
    assert sorted(tmp_path.iterdir()) == [path]  # nothing is left beside the file

"""A study in one SQLite file: its protocol, its pictures, its raters and their answers.

The file is the study: whoever has it can go on serving it, or report on it, without the folders it was made from. An
answer is one transaction and on the disk before it is confirmed (WAL, synchronous = FULL); the first answer to a trial
stands. A rater is a random code and nothing else.
"""

import contextlib
import hashlib
import io
import json
import pathlib
import secrets
import sqlite3
import tempfile
import time

import numpy as np
from PIL import Image

from cdm.evals.study.design import assign, fingerprint
from cdm.images.files import replace

SCHEMA = (
    "CREATE TABLE study (protocol TEXT NOT NULL, hash TEXT NOT NULL)",
    "CREATE TABLE picture (image INTEGER, version INTEGER, png BLOB NOT NULL, PRIMARY KEY (image, version))",
    "CREATE TABLE rater (id INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT NOT NULL UNIQUE, begun REAL NOT NULL, "
    "seen REAL NOT NULL)",
    "CREATE TABLE trial (token TEXT PRIMARY KEY, rater INTEGER NOT NULL REFERENCES rater ON DELETE CASCADE, "
    "place INTEGER NOT NULL, image INTEGER NOT NULL, method INTEGER NOT NULL, real_side TEXT NOT NULL, "
    "handed_out INTEGER NOT NULL DEFAULT 0, chosen_side TEXT, answered REAL, reaction_ms REAL, viewed_ms REAL, "
    "scale INTEGER, means TEXT, UNIQUE (rater, place), UNIQUE (rater, image))",
)
# A rater who has not finished and was not heard of for so long (seconds) does not count in the assignment any more.
GONE = 24 * 3600


class Store:
    """The open file of a study; `protocol` and its `hash`."""

    def __init__(self, path):
        try:
            self._db = sqlite3.connect(f"{_uri(path)}?mode=rw", uri=True, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as e:
            raise ValueError(f"`store` (={path}) must be the file of a study: {e}") from e
        try:
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA synchronous = FULL")
            text, self.hash = self._db.execute("SELECT protocol, hash FROM study").fetchone()
            self.protocol = json.loads(text)
            if self.protocol["schema_version"] != 1 or fingerprint(self.protocol) != self.hash:
                raise ValueError("its protocol is not of this version of cdm, or was changed")
        except (sqlite3.Error, TypeError, KeyError, ValueError) as e:
            self._db.close()
            raise ValueError(f"`store` (={path}) must be the file of a study: {e}") from e

    def close(self):
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self):
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _views(self):
        """(views, lefts) of cdm.evals.study.design.assign."""
        shape = len(self.protocol["images"]), len(self.protocol["methods"])
        views, lefts = np.zeros(shape, int), np.zeros(shape, int)
        rows = self._db.execute(
            "SELECT image, method, count(*), sum(real_side = 'left') FROM trial JOIN rater ON rater.id = trial.rater "
            "WHERE seen > ? OR rater NOT IN (SELECT rater FROM trial WHERE chosen_side IS NULL) GROUP BY image, method",
            [time.time() - GONE])
        for image, method, seen, left in rows:
            views[image, method], lefts[image, method] = seen, left
        return views, lefts

    def begin(self, code):
        """A new rater, unless there is one of this code, with trials of their own."""
        with self._transaction():
            if self.knows(code):
                return
            now = time.time()
            rater = self._db.execute("INSERT INTO rater (code, begun, seen) VALUES (?, ?, ?)",
                                     [code, now, now]).lastrowid
            random = np.random.default_rng([self.protocol["seed"], rater])
            trials = assign(*self._views(), self.protocol["per_rater"], random)
            self._db.executemany(
                "INSERT INTO trial (token, rater, place, image, method, real_side) VALUES (?, ?, ?, ?, ?, ?)",
                [(secrets.token_urlsafe(16), rater, place, *trial) for place, trial in enumerate(trials)])

    def knows(self, code):
        """Whether there is a rater of this code."""
        return self._db.execute("SELECT 1 FROM rater WHERE code = ?", [code]).fetchone() is not None

    def finished(self, code):
        """Whether the rater of this code has answered all trials."""
        return self._db.execute("SELECT 1 FROM trial JOIN rater ON rater.id = rater WHERE code = ? AND "
                                "chosen_side IS NULL", [code]).fetchone() is None

    def next(self, code):
        """(trials answered, the token of the next one): the token is None when there is none."""
        with self._transaction():
            rater, = self._db.execute("SELECT id FROM rater WHERE code = ?", [code]).fetchone()
            self._db.execute("UPDATE rater SET seen = ? WHERE id = ?", [time.time(), rater])
            left = self._db.execute("SELECT token FROM trial WHERE rater = ? AND chosen_side IS NULL ORDER BY place",
                                    [rater]).fetchall()
            token = left[0][0] if left else None
            self._db.execute("UPDATE trial SET handed_out = handed_out + 1 WHERE token = ?", [token])
        return self.protocol["per_rater"] - len(left), token

    def answer(self, code, token, side, reaction_ms, viewed_ms, scale, means):
        """Keep an answer; one that was given already stands. Whether the rater has such a trial."""
        with self._transaction():
            known = self._db.execute("SELECT 1 FROM trial JOIN rater ON rater.id = rater WHERE token = ? AND code = ? "
                                     "AND handed_out > 0", [token, code]).fetchone()
            if known:
                self._db.execute(
                    "UPDATE trial SET chosen_side = ?, answered = ?, reaction_ms = ?, viewed_ms = ?, scale = ?, "
                    "means = ? WHERE token = ? AND chosen_side IS NULL",
                    [side, time.time(), reaction_ms, viewed_ms, scale, means, token])
        return known is not None

    def pair(self, token):
        """(image, {side: version}) of a trial that waits for its answer, or None."""
        row = self._db.execute("SELECT image, method, real_side FROM trial WHERE token = ? AND chosen_side IS NULL "
                               "AND handed_out > 0", [token]).fetchone()
        if row is None:
            return None
        image, method, real = row
        sides = {"left": 0, "right": 1 + method} if real == "left" else {"left": 1 + method, "right": 0}
        return image, (sides | {"middle": 1 + len(self.protocol["methods"])} if self.protocol["task"] == 1 else sides)

    def picture(self, image, version):
        """[H, W, 3] uint8: version 0 is the real picture, then come the methods', then the low-res one."""
        png, = self._db.execute("SELECT png FROM picture WHERE image = ? AND version = ?", [image, version]).fetchone()
        with Image.open(io.BytesIO(png)) as opened:
            return np.asarray(opened)

    def pixels(self):
        """All pictures, [images, versions, H, W, 3] uint8, in a file without a name: each takes as long to read as any
        other, however well it compresses."""
        count, versions = len(self.protocol["images"]), 1 + len(self.protocol["methods"]) + (self.protocol["task"] == 1)
        with tempfile.TemporaryFile() as f:
            out = np.memmap(f, np.uint8, "w+", shape=(count, versions, *self.protocol["size"], 3))
        for image in range(count):
            for version in range(versions):
                out[image, version] = self.picture(image, version)
        return out

    def trials(self):
        """All trials as a list of dicts, by rater and place."""
        rows = self._db.execute(
            "SELECT rater, place, image, method, real_side, handed_out, chosen_side, reaction_ms, viewed_ms, scale, "
            "means FROM trial ORDER BY rater, place")
        names = [column[0] for column in rows.description]
        return [dict(zip(names, row)) for row in rows]


def _uri(path):
    return "file:" + str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def create(path, protocol, folders):
    """The Store at `path`, made of the pictures of Folders if there is none yet; a study that differs is a ValueError
    that names where."""
    digest, path = hashlib.sha256(), pathlib.Path(path)

    def versions():
        for image in range(len(folders)):
            pictures = folders.versions(image)
            digest.update(pictures.tobytes())
            yield image, pictures

    def write(partial):
        with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN")
            for table in SCHEMA:
                db.execute(table)
            for image, pictures in versions():
                db.executemany("INSERT INTO picture VALUES (?, ?, ?)",
                               [(image, version, _png(picture)) for version, picture in enumerate(pictures)])
            protocol["pictures_sha256"] = digest.hexdigest()
            db.execute("INSERT INTO study VALUES (?, ?)", [json.dumps(protocol), fingerprint(protocol)])
            db.execute("COMMIT")

    protocol = dict(protocol)
    if not path.exists():
        replace(path, write)
        return Store(path)
    store = Store(path)
    try:
        for _ in versions():
            pass
        protocol["pictures_sha256"] = digest.hexdigest()
        for name, value in protocol.items():
            if store.protocol[name] != value:
                raise ValueError(f"`store` (={path}) must be of this study; {name} is {_short(store.protocol[name])} "
                                 f"there and {_short(value)} here")
    except BaseException:
        store.close()
        raise
    return store


def _png(picture):
    data = io.BytesIO()
    Image.fromarray(picture).save(data, format="png")
    return data.getvalue()


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Reading a record of a source as a square: again where that may help, and the next one where it does not."""

import errno
import time

import numpy as np

from cdm.data.decode import Unreadable
from cdm.data.squares import Misfit, fit, pair, square

# What a disk or a network says that may be well again in a moment, and how long (seconds) to wait for that.
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EBUSY}
WAITS = (0.1, 1.0, 10.0)


def patiently(read):
    """What `read()` gives, tried again while it fails by what may pass."""
    for wait in (*WAITS, None):
        try:
            return read()
        except OSError as e:
            if wait is None or e.errno not in PASSING:
                raise
            time.sleep(wait)


def read_square(source, i, size, how="center", draw=0.0):
    """Record i of a source at [size, size, 3] uint8 (see cdm.data.squares); Unreadable, which names it, if it is."""
    try:
        return patiently(lambda: square(source.read(i), size, how, draw))
    except Exception as e:  # a decoder given a broken file may raise anything
        raise Unreadable(source.names[i], e) from e


def read_pair(source, i, size, lowres_size, how="center", draw=0.0):
    """Record i of a source of pairs (cdm.data.pairs): (picture, its low-res partner) at [size, size, 3] and
    [lowres_size, lowres_size, 3] uint8, of one place. Unreadable if one of them is; Misfit if they are not partners."""
    try:
        image, lowres = patiently(lambda: source.read(i)), source.partner(i)
        fit(source.names[i], image.shape, lowres.shape)
        return pair(image, lowres, size, lowres_size, how, draw)
    except Misfit:
        raise
    except Exception as e:  # a decoder given a broken file may raise anything
        raise Unreadable(source.names[i], e) from e


def read_good(source, i, size, how="center", draw=0.0, bad=None, lowres_size=None):
    """(j, picture): record i, or the first after it that can be read, at [size, size, 3] uint8; with `lowres_size`, of
    a source of pairs, (j, picture, low-res partner). The names that can not go into the dict `bad` with the reason, and
    are not tried again; ValueError if there is none that can."""
    bad = {} if bad is None else bad
    for step in range(len(source)):
        j = (i + step) % len(source)
        if source.names[j] not in bad:
            try:
                if lowres_size:
                    return j, *read_pair(source, j, size, lowres_size, how, draw)
                return j, read_square(source, j, size, how, draw)
            except Unreadable as e:
                bad[e.name] = e.reason
    raise ValueError(f"`data.source`: none of its {len(source)} pictures can be read; "
                     f"{source.names[i]}: {bad[source.names[i]]}")


def evenly(total, count):
    """Places of `count` records evenly over `total`, or of all that there are."""
    return np.unique(np.linspace(0, total - 1, count).astype(int))


def read_evenly(source, count, size, lowres_size=None):
    """`count` records evenly over the source, or all that it has, each the next good one where it can not be read:
    (their places [N], pictures [N, size, size, 3] uint8), of pairs (see read_good) the low-res partners too."""
    records = evenly(len(source), count)
    return tuple(map(np.stack, zip(*(
        read_good(source, int(i), size, bad=getattr(source, "bad", None), lowres_size=lowres_size) for i in records))))

"""The order of training, and the Grain pipeline that delivers it.

Example n is a pure function of (seed, n): which record, which square of it, and whether it is flipped. So a run needs
no iterator state to resume, and another batch size or topology continues the same sequence.

    unbalanced   epoch e = n div N is the permutation perm(seed, e) of the records; n is its (n mod N)-th     (1)
    balanced     n draws the class first, uniformly, then a record of it                                      (2)

A record that can not be read is replaced by the next that can. Of B examples a batch, process p of P takes B/P:

    batch b = [b B, (b + 1) B),  of which process p has  b B + p B/P + [0, B/P)                               (3)
"""

import functools

import grain
import numpy as np

from cdm.data.reading import read_good
from cdm.data.threads import COUNT


def _draws(seed, n, count):
    """`count` uniform draws in [0, 1) that belong to example n alone; the counter's last word keeps them apart from
    the permutations'."""
    return np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, n, 0, 1])).random(count)


class Order:
    """The first `length` of the sequence of examples: order[n] is {"image": [size, size, 3] uint8, "label", "index"},
    of pairs with "lowres", [lowres_size, lowres_size, 3] uint8, of the same square and flipped alike.

    Random access over a source, so Grain reads it with as many threads as it likes. Names of records that can not be
    read go into the dict `bad`, with the reason.
    """

    def __init__(self, source, config, length, bad=None):
        self._source, self._seed, self._data, self._length = source, config.train.seed, config.data, length
        if self._data.balance:
            labels = np.asarray(source.labels)
            members = [np.flatnonzero(labels == label) for label in range(len(source.classes))]
            self._members = [m for m in members if len(m)]
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: np.random.Generator(np.random.Philox(key=[self._seed, epoch])).permutation(len(source)))
        self._read = functools.partial(read_good, source, size=config.size, how=self._data.square,
                                       bad={} if bad is None else bad,
                                       lowres_size=config.lowres_size if self._data.get("lowres") else None)
        if self._data.cache:
            self._read = functools.lru_cache(maxsize=None)(self._read)

    def __len__(self):
        return self._length

    def record(self, n):
        """The record that example n shows."""
        if not self._data.balance:
            return int(self._permutation(n // len(self._source))[n % len(self._source)])
        which, member = _draws(self._seed, n, 2)
        members = self._members[int(which * len(self._members))]
        return int(members[int(member * len(members))])

    def __getitem__(self, n):
        n = int(n)
        *_, flip, place = _draws(self._seed, n, 4)  # the first two are of `record`
        random = {"draw": place} if self._data.square == "random" else {}
        record, *pictures = self._read(self.record(n), **random)
        if self._data.flip and flip < 0.5:
            pictures = [picture[:, ::-1] for picture in pictures]
        return {**dict(zip(("image", "lowres"), pictures)), "label": self._source.labels[record],
                "index": np.uint32(n % 2**32)}


class Share:
    """What one of several processes has of the whole batches among the examples [first, last): equation (3)."""

    def __init__(self, order, first, last, batch_size, process, processes):
        self._order, self._first, self._batch_size = order, first, batch_size
        self._size = batch_size // processes
        self._offset, self._length = process * self._size, (last - first) // batch_size * self._size

    def __len__(self):
        return self._length

    def __getitem__(self, k):
        batch, place = divmod(int(k), self._size)
        return self._order[self._first + batch * self._batch_size + self._offset + place]


def batches(source, config, first, last, process=0, processes=1, bad=None):
    """Iterate what `process` of `processes` has of the batches of examples [first, last): dicts of stacked arrays, read
    ahead by Grain's threads. Names of records that can not be read go into the dict `bad`, with the reason."""
    batch_size = config.train.batch_size
    if batch_size % processes:
        raise ValueError(f"`train.batch_size` (={batch_size}) must be divisible by the {processes} processes")
    share = Share(Order(source, config, last, bad), first, last, batch_size, process, processes)
    dataset = grain.MapDataset.source(share).batch(batch_size // processes, drop_remainder=True)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=COUNT, prefetch_buffer_size=max(8, COUNT))))

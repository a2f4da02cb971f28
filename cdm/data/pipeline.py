"""The order of training, and the Grain pipeline that delivers it.

Example n is a pure function of (seed, n): which record, and whether it is flipped. So a run needs no iterator state to
resume, and another batch size or topology continues the same sequence.

    unbalanced   epoch e = n div N is the permutation perm(seed, e) of the records; n is its (n mod N)-th     (1)
    balanced     n draws the class first, uniformly, then a record of it                                      (2)
"""

import functools

import grain
import numpy as np

from cdm.data.sources import read_square


def _draws(seed, n, count):
    """`count` uniform draws in [0, 1) that belong to example n alone; the counter's last word keeps them apart from
    the permutations'."""
    return np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, n, 0, 1])).random(count)


class Order:
    """The first `length` of the sequence of examples: order[n] is {"image": [size, size, 3] uint8, "label", "index"}.

    Random access over a source, so Grain reads it with as many threads as it likes.
    """

    def __init__(self, source, config, length):
        self._source, self._size, self._seed = source, config.size, config.train.seed
        self._data, self._length = config.data, length
        self._members = [np.flatnonzero(source.labels == label) for label in range(len(source.classes))]
        self._members = [m for m in self._members if len(m)]
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: np.random.Generator(np.random.Philox(key=[self._seed, epoch])).permutation(len(source)))
        self._read = functools.partial(read_square, source, size=self._size)
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
        record = self.record(n)
        image = self._read(record)
        if self._data.flip and _draws(self._seed, n, 3)[2] < 0.5:
            image = image[:, ::-1]
        return {"image": image, "label": self._source.labels[record], "index": np.uint32(n % 2**32)}


def batches(source, config, first, last):
    """Iterate the batches of examples [first, last): dicts of stacked arrays, read ahead by Grain's threads."""
    order = Order(source, config, last)
    dataset = grain.MapDataset.source(order)[first:last].batch(config.train.batch_size, drop_remainder=True)
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
    return iter(dataset.to_iter_dataset(options))

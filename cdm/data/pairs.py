"""Pairs: the pictures of one source, and from another the low-res picture of each (`data.lowres` of a config).

Partners have the same name but for the ending of a picture: `a/1.png` and `a/1.jpg`, or record 7 of two arrays. A
picture without one is no record that can be read: a run leaves it out and lists it, as it does a broken file.
"""

import collections
import posixpath

from cdm.data.decode import SUFFIXES, reason
from cdm.data.reading import patiently
from cdm.data.sources import open_source
from cdm.data.squares import Misfit, fit


class LowRes(Exception):
    """What is wrong with the low-res picture of a pair."""


class Pairs:
    """The Source `high` with, as `partner(i)`, the low-res picture of a record from the Source `low`, [h, w, 3] uint8;
    labels are those of `high`. ValueError where names without an ending are not unique, or more than half of the
    pictures have no partner."""

    def __init__(self, high, low):
        self._high, self._low = high, low
        self.names, self.labels, self.classes = high.names, high.labels, high.classes
        self.size = getattr(high, "size", None)
        places, partners = _by_stem(high, "data.source"), _by_stem(low, "data.lowres")
        self._partners = [partners.get(stem) for stem in places]
        alone = [name for name, partner in zip(self.names, self._partners) if partner is None]
        if 2 * len(alone) > len(self):
            raise ValueError(f"`data.lowres` must hold pictures of the names of `data.source`: {len(alone)} of its "
                             f"{len(self)} have no partner, whatever the ending; the first is {alone[0]}, the first "
                             f"low-res picture {low.names[0]}")
        self.checked = high.checked and low.checked and not alone
        self.others = [*getattr(high, "others", ()), *(low.names[i] for stem, i in partners.items()
                                                       if stem not in places)]
        if hasattr(high, "encoded"):
            self.encoded = high.encoded

    def __len__(self):
        return len(self.names)

    def read(self, i):
        return self._high.read(i)

    def partner(self, i):
        return self._of_partner(i, self._low.read)

    def check(self, i):
        """Raise what headers tell is wrong with a pair: Misfit if it is none."""
        shapes = [] if self._high.checked else [self._high.check(i)]
        shapes += self._of_partner(i, lambda place: [] if self._low.checked else [self._low.check(place)])
        try:
            if len(shapes) == 2:
                fit(self.names[i], *shapes)
        except Misfit:  # EXIF may turn one of them
            fit(self.names[i], self.read(i).shape, self.partner(i).shape)

    def _of_partner(self, i, function):
        place = self._partners[i]
        if place is None:
            raise LowRes("there is none of its name")
        try:
            return patiently(lambda: function(place))
        except Exception as e:  # a decoder given a broken file may raise anything
            raise LowRes(f"{self._low.names[place]}: {reason(e)}") from e


def _by_stem(source, argument):
    """{name without a picture's ending: its record}."""
    stems = [root if end.lower() in SUFFIXES else root + end for root, end in map(posixpath.splitext, source.names)]
    places = {stem: i for i, stem in enumerate(stems)}
    if len(places) < len(stems):
        stem = collections.Counter(stems).most_common(1)[0][0]
        twice = " and ".join([name for name, own in zip(source.names, stems) if own == stem][:2])
        raise ValueError(f"`{argument}` must hold one picture of a name, whatever the ending; it has {twice}")
    return places


def open_data(spec, lowres=None):
    """The Source that `spec` names or, with the spec of their low-res pictures, the Pairs of both."""
    high = open_source(spec)
    if not lowres:
        return high
    try:
        low = open_source(lowres)
    except ValueError as e:
        raise ValueError(str(e).replace("`data.source`", "`data.lowres`")) from e
    return Pairs(high, low)

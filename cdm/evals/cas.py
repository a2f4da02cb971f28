"""The classification accuracy score (Ravuri & Vinyals 2019): how well a classifier that was trained on generated images
alone knows real ones.

The generated set takes the place of the training set; classes are drawn equally often where they are not equally large.
`baseline` is the same training on real images: what is between them, the generator misses. The interval of top-1 is
Wilson's, 95 %: it counts the test images and not the luck of a training, for which there are seeds.

    RUN/images/, RUN/baseline/   a training each (cdm.evals.classifier); about.json says what it rests on, result.json
                                 how it was tested
"""

import functools
import hashlib
import json
import pathlib

import jax
import numpy as np
from ml_collections import FrozenConfigDict
from tqdm import tqdm

from cdm.cascade import check_seed
from cdm.data.decode import Unreadable
from cdm.data.reading import read_square
from cdm.data.sources import open_source
from cdm.data.threads import in_order
from cdm.evals import classifier, rows
from cdm.evals.intervals import wilson
from cdm.images.files import hold, write_json
from cdm.stage import slug
from cdm.training.stop import on_sigterm

# What a network is trained with unless told otherwise; the rate is that of a batch of 256.
NETWORKS = {
    "resnet50": dict(epochs=90, batch_size=256, learning_rate=0.1, weight_decay=1e-4, augment="imagenet"),
    "small": dict(epochs=30, batch_size=64, learning_rate=0.2, weight_decay=5e-4, augment="small"),
}
# Random resized crops of at least this share of an image, and flips.
AUGMENTS = {"imagenet": dict(area=0.08, flip=True), "small": dict(area=0.5, flip=True),
            "none": dict(area=1.0, flip=False)}
CACHE = 2**31  # bytes: smaller training sets are kept decoded in memory


class Labelled:
    """A Source whose labels are places in `classes`; an image of another shape than `shape`, if it has one, is bad."""

    def __init__(self, source, labels, classes):
        self._source, self.names, self.labels, self.classes = source, source.names, labels, tuple(classes)
        self.shape = None

    def __len__(self):
        return len(self.names)

    def read(self, i):
        image = self._source.read(i)
        if self.shape not in (None, image.shape):
            raise ValueError("its size is {1}x{0}, another's {4}x{3}".format(*image.shape, *self.shape))
        return image

    def counts(self):
        """Images of each class."""
        return np.bincount(self.labels, minlength=len(self.classes))


def aligned(specs):
    """The Labelled sources of {argument: spec}, all with the classes of the last: classes are the same where their
    names have the same letters and digits, and a set whose classes are numbers (an array of labels) has places in the
    others' classes."""
    sources = {argument: open_source(spec) for argument, spec in specs.items()}
    slugs = {argument: [slug(name) for name in source.classes] for argument, source in sources.items()}
    for argument, names in slugs.items():
        if not names:
            raise ValueError(f"`{argument}` (={specs[argument]}) must have classes; its images have no labels")
    named = [argument for argument, names in slugs.items() if not all(map(str.isdecimal, names))]
    model = (named or list(specs))[-1]
    classes, found = sources[model].classes, {}
    for argument, source in sources.items():
        known = slugs[model] if argument in named or not named else list(map(str, range(len(classes))))
        strange = [name for name, as_slug in zip(source.classes, slugs[argument]) if as_slug not in known]
        if strange:
            raise ValueError(f"`{argument}` (={specs[argument]}) must have the classes of `{model}` "
                             f"(={specs[model]}); {strange[0]} is none of them")
        places = np.array([known.index(name) for name in slugs[argument]], np.int32)
        found[argument] = Labelled(source, places[np.asarray(source.labels)], classes)
        absent = [name for name, count in zip(classes, found[argument].counts()) if not count]
        if absent:
            raise ValueError(f"`{argument}` (={specs[argument]}) must have images of the classes of `{model}` "
                             f"(={specs[model]}); it has none of {absent[0]}")
    return found


def _bad(name, unreadable):
    return ValueError(f"{name}: {unreadable.name} is no image to evaluate: {unreadable.reason}")


def shape_of_first(source, name):
    """[H, W, 3] of the first image; `name` is what errors call the source."""
    try:
        return source.read(0).shape
    except Exception as e:  # a decoder given a broken file may raise anything
        raise _bad(name, Unreadable(source.names[0], e)) from e


def digest(source, size, name):
    """SHA-256 of the squares of a source at `size` and of their labels: every image is read, none passed over."""
    sha, squares = hashlib.sha256(), in_order(functools.partial(read_square, source, size=size), len(source))
    bar = tqdm(squares, total=len(source), unit="img", leave=False, disable=None)
    try:
        for label, image in zip(source.labels, bar):
            sha.update(np.int32(label).tobytes() + image.tobytes())
    except Unreadable as e:
        raise _bad(name, e) from e
    return sha.hexdigest()


def summary(predicted, rank, labels, classes):
    """(results, details) of predictions [N] with the rank [N] of the right class: the accuracies as a card has them,
    and what became of each real class; the confusion leaves zeros out."""
    table = np.zeros([len(classes)] * 2, int)
    np.add.at(table, (labels, predicted), 1)
    counts, right, total = table.sum(1), np.diag(table), len(labels)
    known = {"top1": int(right.sum())}
    if len(classes) > 5:
        known["top5"] = int(np.sum(rank < 5))
    results = {name: {"mean": n / total, "blocks": [n / total], "interval": list(wilson(n, total))}
               for name, n in known.items()}
    even = float(np.mean(right / counts))
    return results | {"mean_over_classes": {"mean": even, "blocks": [even]}}, {
        "classes": {name: {"images": int(n), "top1": r / n} for name, n, r in zip(classes, counts, right)},
        "confusion": {name: {classes[j]: int(row[j]) for j in np.flatnonzero(row)}
                      for name, row in zip(classes, table)},
    }


def _config(network, size, augment, balance, count, images, batch_size, seed):
    """What a classifier of `count` images is trained by: a config that the loader understands too."""
    usual = NETWORKS[network]
    return FrozenConfigDict({
        "network": network, "size": size, "dtype": "float32" if jax.default_backend() == "cpu" else "bfloat16",
        "augment": AUGMENTS[augment],
        "data": {"square": "center", "flip": AUGMENTS[augment]["flip"], "balance": balance,
                 "cache": count * size**2 * 3 <= CACHE},
        "train": {"images": images, "batch_size": batch_size, "seed": seed,
                  "learning_rate": usual["learning_rate"], "weight_decay": usual["weight_decay"]}})


def _scored(folder, about, source, reference, config, asked):
    """The `summary` of a training in its folder, done as far as it is not; `about` is all that it rests on."""
    folder.mkdir(exist_ok=True)
    rows.agree(folder / "about.json", about, "workdir")
    if not (folder / "result.json").exists():
        state = classifier.train(source, config, folder, asked)
        found = classifier.test(state, reference, config)
        write_json(folder / "result.json", summary(*found, reference.labels, reference.classes))
    return json.loads((folder / "result.json").read_text())


def score(images, reference, run, baseline=None, network="resnet50", epochs=None, train_images=None, batch_size=None,
          size=None, seed=0, augment=None, say=print):
    """The protocol card of the CAS of `images`, from whatever the folder `run` holds of it; `images`, `reference` and
    `baseline` are specs of `open_source`. Training sees `train_images`, or `epochs` of `images`; the baseline's sees as
    many. Raises Stopped after a SIGTERM, everything saved."""
    for name, value, known in (("network", network, NETWORKS), ("augment", augment or "none", AUGMENTS)):
        if value not in known:
            raise ValueError(f"`{name}` (={value}) must be one of {', '.join(known)}")
    check_seed(seed)
    specs = {"images": images, **({"baseline": baseline} if baseline else {}), "reference": reference}
    names, sets = {argument: f"`{argument}` (={spec})" for argument, spec in specs.items()}, aligned(specs)
    shape = sets["images"].shape = shape_of_first(sets["images"], names["images"])
    if shape[0] != shape[1]:
        raise ValueError(f"{names['images']} must be square images, not {shape[1]}x{shape[0]}")
    size, usual = size or shape[0], NETWORKS[network]
    seen = train_images or (epochs or usual["epochs"]) * len(sets["images"])
    augment, batch_size = augment or usual["augment"], batch_size or usual["batch_size"]
    run, card = pathlib.Path(run), {"kind": "cas", "protocol": None, "results": {}, "about": {}}
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ValueError(f"`workdir` (={run}) must be a folder that can be written: {e.strerror}") from e
    with hold(run, "workdir"), on_sigterm() as asked:
        known = {argument: {"images": len(source), "sha256": digest(source, size, names[argument])}
                 for argument, source in sets.items()}
        for argument in [name for name in specs if name != "reference"]:
            source, (least, *_, most) = sets[argument], sorted(sets[argument].counts().tolist())
            if least < most:
                say(f"warning: {names[argument]} has from {least} to {most} images of a class; classes are drawn "
                    "equally often")
            config = _config(network, size, augment, least < most, len(source), seen, batch_size, seed)
            rests = {name: part for name, part in config.to_dict().items() if name != "data"}
            about = {**rests, "images": known[argument], "reference": known["reference"],
                     "classes": list(sets["reference"].classes)}
            results, details = _scored(run / argument, about, source, sets["reference"], config, asked)
            prefix = "" if argument == "images" else f"{argument}_"
            card["results"].update({prefix + name: value for name, value in results.items()})
            card["about"][argument] = {"source": str(specs[argument]), **known[argument], "of_a_class": [least, most],
                                       **details}
            card["protocol"] = card["protocol"] or {**about, "images": len(source), "test": "middle square, one view"}
    return card

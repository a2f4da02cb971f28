"""A super-resolution stage on real pictures, beside bicubic, Lanczos and, if given, a regression of its size.

The low-res pictures are made of the real ones by the one resize and given in float to all of them alike; what each
makes of them is measured in 8 bits. Real picture i has the noise of image i of its class under the seed, so that
neither batches nor an interruption change it.
"""

import pathlib

import numpy as np
from PIL import Image

from cdm.cascade import check_seed, count_labels, sample_stage
from cdm.data.threads import in_order
from cdm.evals import restoration, rows, sets
from cdm.images.files import write_grid
from cdm.images.resize import resize, to_float, to_uint8
from cdm.settings import settings_of
from cdm.stage import slug

BATCH, SHOWN = 16, 8  # pictures sampled at a time, pictures on the sheet
GOLDEN = (5**0.5 - 1) / 2


def bicubic(lowres, size):
    """[h, w, 3] in [-1, 1] enlarged to uint8 of `size`, (H, W) or one number for both, by the one resize."""
    return to_uint8(resize(lowres, size))


def lanczos(lowres, size):
    """[h, w, 3] in [-1, 1] enlarged to uint8 of `size`, (H, W) or one number for both, by Pillow's Lanczos filter, in
    float."""
    height, width = (size, size) if isinstance(size, int) else size
    channels = [Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS)
                for channel in np.moveaxis(lowres, -1, 0)]
    return to_uint8(np.stack(channels, axis=-1))


def measure_stage(stage, source, data, out, count=None, seed=0, regression=None, distance=None, **changes):
    """The card of a Stage on `count` pictures (None: all), evenly over a source, which `data` names.

    Their rows go beside the card file `out` as .rows.jsonl, and SHOWN of them as .png, a row each: low-res, bicubic,
    the regression, the stage, real. `changes` are those of `settings_of`, for the stage.
    """
    _check(stage, regression, source, data, count, seed)
    records = np.linspace(0, len(source) - 1, count or len(source)).astype(int)
    networks = {"regression": regression, "stage": stage} if regression else {"stage": stage}
    settings = {name: settings_of(net, **(changes if net is stage else {})) for name, net in networks.items()}
    labels = {name: _labels(net, source)[records] for name, net in networks.items()}
    counts = {name: count_labels(found) for name, found in labels.items()}
    # Any first few are spread over all: those on the sheet, and those of an evaluation that was stopped.
    order = np.argsort(np.arange(len(records)) * GOLDEN % 1)
    scale, out = stage.size // stage.lowres_size, pathlib.Path(out)

    def read(i):
        return sets.real_square(source, records[i], stage.size, "data", stage.config.data.square)

    def make(index, lowres):
        """{method: [B, size, size, 3] uint8}"""
        images = {method.__name__: np.stack([method(low, stage.size) for low in lowres])
                  for method in (bicubic, lanczos)}
        for name, net in networks.items():
            sample = sample_stage(net, labels[name][index], seed, lowres, counts[name][index],
                                  **settings[name]._asdict())
            images[name] = to_uint8(np.asarray(sample))
        return images

    def measure(part):
        # Padded, so that one program does for all batches.
        index = order[np.minimum(np.arange(part.start, part.start + min(BATCH, len(records))), len(records) - 1)]
        real = np.stack([read(i) for i in index])
        lowres = resize(to_float(real), stage.lowres_size)
        images = make(index, lowres)
        if part.start == 0:
            nearest = to_uint8(lowres).repeat(scale, axis=1).repeat(scale, axis=2)
            shown = {"lowres": nearest, **images, "real": real}
            del shown["lanczos"]
            write_grid(out.with_suffix(".png"), to_float(np.stack([*shown.values()], axis=1)[:SHOWN]))
        return [{"name": source.names[records[index[k]]],
                 **{name: restoration.measures(made[k], real[k], ("rgb", "y"), scale, lowres[k], distance)
                    for name, made in images.items()}} for k in range(len(part))]

    reference = sets.about(in_order(read, len(records)))
    protocol = {**restoration.about(("rgb", "y"), scale, distance), "reference": reference,
                "square": stage.config.data.square, "size": stage.size, "lowres_size": stage.lowres_size, "seed": seed}
    made_by = {"bicubic": "the one resize", "lanczos": "Pillow, in float", **{name: {
        "name": net.name, "sha256": net.sha256, "parameters": net.parameters,
        **settings[name].as_json()} for name, net in networks.items()}}
    asked = {"protocol": protocol, "made_by": made_by}
    found = rows.collect(out, asked, len(records), BATCH, measure)
    about = {"data": str(data), "made_by": made_by, "names": [row.pop("name") for row in found], "infinite": {}}
    results = {}
    for name in made_by:
        of_method, infinite = restoration.results([row[name] for row in found])
        results |= {f"{name}.{metric}": value for metric, value in of_method.items()}
        about["infinite"] |= {f"{name}.{metric}": count for metric, count in infinite.items()}
    return {"kind": "restoration of a stage", "protocol": protocol, "results": results, "about": about}


def _check(stage, regression, source, data, count, seed):
    if not stage.lowres_size:
        raise ValueError(f"`stage` (={stage.name}) must be a super-resolution stage")
    sizes = stage.lowres_size, stage.size
    if regression and not (regression.regression and (regression.lowres_size, regression.size) == sizes):
        raise ValueError(f"`regression` (={regression.name}) must be trained with `diffusion.loss` = regression, from "
                         f"{sizes[0]} to {sizes[1]} pixels")
    if count is not None and not 1 <= count <= len(source):
        raise ValueError(f"`count` (={count}) must lie in 1..{len(source)}, the pictures of {data}")
    check_seed(seed)


def _labels(stage, source):
    """The stage's label of every picture: its class by name, or no class where the stage does not know it."""
    known = {slug(name): label for label, name in enumerate(stage.classes)}
    table = [known.get(slug(name), stage.null_label) for name in source.classes]
    labels = np.array(table)[source.labels] if source.classes else np.full(len(source), stage.null_label)
    if stage.classes and not stage.config.train.class_dropout and stage.null_label in labels:
        raise ValueError(f"`data` must have the classes of {stage.name}, which was trained without the null class: "
                         f"{', '.join(stage.classes)}")
    return labels

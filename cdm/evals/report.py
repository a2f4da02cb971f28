"""The report on a cascade: what every stage does with real input, with its predecessor's, and in the whole chain.

Real pictures enter at stage j, as its low-res input, and the rest of the chain runs on; j = 0 is the whole chain, from
noise. d(j, k) is the distance (cdm.evals.scoring) of what stage k made in that run to real pictures of its size. So

    real input  d(k, k)      the previous stage's output, of real input  d(k - 1, k)      whole chain  d(0, k)    (1)
    share of stage j in the final error = (d(j, K) - d(j + 1, K)) / (d(0, K) - d(K + 1, K))                       (2)

with K the last stage and d(K + 1, K) that of the real pictures that entered, which differ from the reference too. The
shares sum to 1; one may be negative, where a stage mends what those before it did.

OUT/report.json, OUT/report.html; OUT/from_<stage>/ are the runs, folders of samples that are gone on with when the
report is made again.
"""

import pathlib

import jax
import numpy as np

import cdm
from cdm.evals import page, rows, scoring
from cdm.evals.restoration import consistency, psnr, ssim
from cdm.evals.sets import ImageSet
from cdm.images.files import hold, write_image, write_json
from cdm.images.resize import resize, to_float, to_uint8
from cdm.samples import file_name, write_samples

SHOWN = 8  # pictures of each run on the page


def report(cascade, extractor, data, reference, out, n=20, seed=0, batch_size=None):
    """Write the report on a Cascade into the folder `out`; returns the contents of report.json.

    data: the pictures that enter, n of each class; reference: the real pictures that distances are from, in the
    features of the Extractor; each what `open_source` takes. Raises ValueError for what does not fit, and if `out` was
    made with other arguments.
    """
    out, stages, settings = pathlib.Path(out), cascade.stages, cascade.settings()
    scoring.check_finished(stages, settings)
    real = scoring.Real(data, cascade.classes, n)
    if len(real.pairs) < scoring.LEAST:
        raise ValueError(f"`n` (={n}) must be at least {-(-scoring.LEAST // len(real.labels))}: a distance takes "
                         f"{scoring.LEAST} pictures, and there are {len(real.labels)} classes")
    entered = [real.at(stage.size) for stage in stages]
    out.mkdir(parents=True, exist_ok=True)
    with hold(out, "out"):
        scorer = scoring.Scorer(extractor, reference, [stage.size for stage in stages], out / "features")
        data = scoring.about(real.spec, {s.size: scorer.features(one) for s, one in zip(stages, entered)})
        about = {"cdm": cdm.__version__, "n": n, "seed": seed, **scorer.protocol, "data": {**data, "of": real.of},
                 "stages": {s.name: {"sha256": s.sha256, **own.as_json()} for s, own in zip(stages, settings)}}
        rows.agree(out / "arguments.json", about, "out")
        made = {}
        for j in range(len(stages)):
            made |= _run(cascade, j, real, entered[j], out, seed, batch_size)
        result = {**about, "jax": jax.__version__, **_measure(stages, made, entered, scorer)}
        write_json(out / "report.json", result)
        page.write_page(out / "report.html", f"A cascade of {len(stages)} stages", _page(stages, result, made, entered))
    return result


def _run(cascade, j, real, entered, out, seed, batch_size):
    """Run the chain from stage j on real input; returns {(j, k): the ImageSet of what stage k made}."""
    stage, folder = cascade.stages[j], out / f"from_{cascade.stages[j].name}"
    files = [file_name(cascade.classes, *pair) for pair in real.pairs]
    if j:
        write_lowres(folder / cascade.stages[j - 1].name, files, stage, entered)
    write_samples(cascade, folder, list(real.labels), real.n, seed, batch_size, start_at=stage.name if j else None)
    last = len(cascade.stages) - 1
    return {(j, k): ImageSet(folder if k == last else folder / cascade.stages[k].name, chosen=files)
            for k in range(j, last + 1)}


def lowres(stage, picture):
    """What a super-resolution stage is given of a real picture: uint8, as a stage below would hand it on."""
    return to_uint8(resize(to_float(picture), stage.lowres_size))


def write_lowres(folder, files, stage, entered):
    """Write what a super-resolution stage is given of each real picture of an ImageSet, those that are not there yet."""
    for i, file in enumerate(files):
        if not (folder / file).exists():
            write_image(folder / file, to_float(lowres(stage, entered.read(i))))


def _measure(stages, made, entered, scorer):
    """Everything the page tells, JSON-ready."""
    real, table = [scorer.distance(one) for one in entered], []
    distances = {at: scorer.distance(one) for at, one in made.items()}
    for k, stage in enumerate(stages):
        row = {"stage": stage.name, "size": stage.size, "real_pictures": _number(real[k])}
        if k:
            row |= {"real_input": _number(distances[k, k]), "previous_output": _number(distances[k - 1, k]),
                    "restoration": _restoration(stage, made[k, k], entered[k])}
        table.append(row | {"whole_chain": _number(distances[0, k])})
    last = len(stages) - 1
    chain = [distances[j, last] for j in range(last + 1)] + [real[last]]

    def shares(values):
        """Eq. 2 of the last stage's distances, those of one picture of each set or without a block."""
        return -np.diff(values, axis=0) / (values[0] - values[-1])

    value = shares(np.array([e.value for e in chain]))
    without = shares(np.array([e.without for e in chain]))
    return {"distances": table, "shares": [
        {"stage": s.name, "share": float(v), "error": scoring.jackknife(w), "distance_when_real_enters": _number(e)}
        for s, v, w, e in zip(stages, value, without, chain)]}


def _number(estimate):
    return {"value": float(estimate.value), "error": estimate.error}


def _restoration(stage, made, entered):
    """Means over the pictures of a stage given real input, beside bicubic enlargement: 8-bit RGB, and consistency."""
    found = []
    for i in range(len(made)):
        x0, sample = entered.read(i), made.read(i)
        low = to_float(lowres(stage, x0))
        bicubic = to_uint8(resize(low, stage.size))
        found.append([psnr(sample, x0), psnr(bicubic, x0), ssim(sample, x0), ssim(bicubic, x0),
                      consistency(sample, low)])
    names = ("psnr", "psnr_bicubic", "ssim", "ssim_bicubic", "consistency")
    return {name: float(value) for name, value in zip(names, np.mean(found, axis=0))}


def _page(stages, result, made, entered):
    """The parts of the page."""
    found, names = result["distances"], [s.name for s in stages]
    columns = {"real_pictures": "real pictures", "real_input": "real input", "previous_output": "previous output",
               "whole_chain": "whole chain"}

    def text(number):
        return f"{number['value']:.4f} ± {number['error']:.4f}" if number else "–"

    data, reference = result["data"], result["reference"]
    parts = [page.paragraph(
        f"Distances are kernel distances (KID over all pictures at once) in features of {result['features']}, of "
        f"{data['n']} pictures ({data['source']}) from {reference['n']} real ones ({reference['source']}); ± is one "
        f"standard error by the jackknife. Real input: the stage alone, given real low-res pictures. Previous output: "
        f"given what the stage below makes of real input. Whole chain: from noise.")]
    if data["source"] == reference["source"]:
        parts.append(page.paragraph(
            "The pictures that entered are among those they are compared with: real pictures, and stages that were "
            "given real input, come out nearer than they are."))
    parts.append(page.table(["stage", *columns.values()],
                            [[r["stage"], *(text(r.get(name)) for name in columns)] for r in found]))
    parts.append(page.bars(names, list(columns.values()), *(
        [[r[name] and r[name][part] if r.get(name) else None for r in found] for name in columns]
        for part in ("value", "error")), "kernel distance", "Distance by stage and input"))
    shares = result["shares"]
    parts.append(page.bars(names, ["share"], [[s["share"] for s in shares]], [[s["error"] for s in shares]],
                           "share", "The share of the final error that each stage adds"))
    parts.append(page.table(["stage", "share of the final error", "final distance when real input enters here"],
                            [[s["stage"], f"{s['share']:.1%} ± {s['error']:.1%}", text(s["distance_when_real_enters"])]
                             for s in shares]))
    parts.append(page.table(["real input", "PSNR", "bicubic", "SSIM", "bicubic", "consistency, MSE × 1e5"], [
        [r["stage"], f"{m['psnr']:.2f} dB", f"{m['psnr_bicubic']:.2f} dB", f"{m['ssim']:.4f}",
         f"{m['ssim_bicubic']:.4f}", f"{m['consistency']:.2f}"] for r in found if (m := r.get("restoration"))]))

    def strip(images):
        return np.concatenate([images.read(i) for i in range(SHOWN)], axis=1)

    for j, name in enumerate(names):
        caption = f"real input enters at {name}" if j else "the whole chain, from noise"
        parts.append(page.picture(strip(made[j, len(names) - 1]), caption))
    parts.append(page.picture(strip(entered[-1]), "the real pictures"))
    return parts

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
from cdm.evals import page
from cdm.evals.restoration import consistency, psnr, ssim
from cdm.evals.scoring import Real, Scorer, agree, jackknife
from cdm.images.files import hold, read_image, write_image, write_json
from cdm.images.resize import resize, to_float, to_uint8
from cdm.samples import file_name, write_samples

SHOWN = 8  # pictures of each run on the page


def report(cascade, extractor, data, reference, out, n=20, seed=0, batch_size=None):
    """Write the report on a Cascade into the folder `out`; returns the contents of report.json.

    data: the Source whose pictures enter, n of each class; reference: the Source of the real pictures that distances
    are from, in the features of the Extractor. Raises ValueError for what does not fit, and if `out` was made with
    other arguments.
    """
    out = pathlib.Path(out)
    real = Real(data, cascade.classes, n)
    out.mkdir(parents=True, exist_ok=True)
    with hold(out, "out"):
        scorer = Scorer(extractor, reference, out / "features")
        about = {"cdm": cdm.__version__, "n": n, "seed": seed, **scorer.protocol,
                 "entered": len(real.pairs()), "from": len(data),
                 "stages": {s.name: {"sha256": s.sha256, **settings._asdict()}
                            for s, settings in zip(cascade.stages, cascade.settings())}}
        agree(out / "arguments.json", about, "out")
        made = [_run(cascade, j, real, out, seed, batch_size) for j in range(len(cascade.stages))]
        result = {**about, "jax": jax.__version__, **_measure(cascade, made, real, scorer)}
        write_json(out / "report.json", result)
        page.write_page(out / "report.html", f"A cascade of {len(cascade.stages)} stages",
                        _page(cascade, result, made, real))
    return result


def _run(cascade, j, real, out, seed, batch_size):
    """Run the chain from stage j on real input; returns read(k, i): picture i of stage k, [H, W, 3] uint8 or None where
    the stage handed on a noisy state."""
    stage, folder = cascade.stages[j], out / f"from_{cascade.stages[j].name}"
    if j:
        below = folder / cascade.stages[j - 1].name
        for label, count in real.pairs():
            path = below / file_name(cascade.classes, label, count)
            if not path.exists():
                lowres, _ = pair(stage, real, label, count)
                write_image(path, to_float(lowres))
    write_samples(cascade, folder, list(real.records), real.n, seed, batch_size, start_at=stage.name if j else None)
    files = [file_name(cascade.classes, *pair) for pair in real.pairs()]

    def read(k, i):
        last = k == len(cascade.stages) - 1
        path = (folder if last else folder / cascade.stages[k].name) / files[i]
        return read_image(path) if path.exists() else None

    return read


def pair(stage, real, label, count):
    """(low-res input, picture), both uint8, of a super-resolution stage."""
    x0 = real.read(label, count, stage.size)
    return to_uint8(resize(to_float(x0), stage.lowres_size)), x0


def _measure(cascade, made, real, scorer):
    """Everything the page tells, JSON-ready."""
    count, stages = len(real.pairs()), cascade.stages
    distances, entered = {}, []
    for k, stage in enumerate(stages):
        pictures = [real.read(*pair, stage.size) for pair in real.pairs()]
        entered.append(scorer.distance(scorer.features(count, pictures.__getitem__), stage.size))
        for j in range(k + 1):
            if made[j](k, 0) is not None:
                found = scorer.features(count, lambda i, j=j, k=k: made[j](k, i))
                distances[j, k] = scorer.distance(found, stage.size)
    rows = []
    for k, stage in enumerate(stages):
        row = {"stage": stage.name, "size": stage.size, "real_pictures": _number(entered[k])}
        if k:
            row |= {"real_input": _number(distances.get((k, k))),
                    "previous_output": _number(distances.get((k - 1, k))),
                    "restoration": _restoration(stage, lambda i, k=k: made[k](k, i), real)}
        rows.append(row | {"whole_chain": _number(distances.get((0, k)))})
    last = len(stages) - 1
    chain = [distances[j, last] for j in range(last + 1)] + [entered[last]]

    def shares(values):
        """Eq. 2 of the last stage's distances, those of one picture of each set or without a block."""
        return -np.diff(values, axis=0) / (values[0] - values[-1])

    value = shares(np.array([e.value for e in chain]))
    without = shares(np.array([e.without for e in chain]))
    return {"distances": rows, "shares": [
        {"stage": s.name, "share": float(v), "error": jackknife(w), "distance_when_real_enters": _number(e)}
        for s, v, w, e in zip(stages, value, without, chain)]}


def _number(estimate):
    return estimate and {"value": float(estimate.value), "error": estimate.error}


def _restoration(stage, read, real):
    """Means over the pictures of a stage given real input, beside bicubic enlargement: 8-bit RGB, and consistency."""
    found = []
    for i, (label, count) in enumerate(real.pairs()):
        lowres, x0 = pair(stage, real, label, count)
        bicubic, sample = to_uint8(resize(to_float(lowres), stage.size)), read(i)
        found.append([psnr(sample, x0), psnr(bicubic, x0), ssim(sample, x0), ssim(bicubic, x0),
                      consistency(sample, to_float(lowres))])
    names = ("psnr", "psnr_bicubic", "ssim", "ssim_bicubic", "consistency")
    return {name: float(value) for name, value in zip(names, np.mean(found, axis=0))}


def _page(cascade, result, made, real):
    """The parts of the page."""
    rows, names = result["distances"], [s.name for s in cascade.stages]
    columns = {"real_pictures": "real pictures", "real_input": "real input", "previous_output": "previous output",
               "whole_chain": "whole chain"}

    def text(found):
        return f"{found['value']:.4f} ± {found['error']:.4f}" if found else "–"

    parts = [page.paragraph(
        f"Distances are kernel distances (KID over all pictures at once) in features of "
        f"{result['metric'].split()[-1]}, of {result['entered']} pictures from {result['reference_pictures']} real ones; "
        f"± is one standard error by the jackknife. Real input: the stage alone, given real low-res pictures. Previous output: given what the stage "
        f"below makes of real input. Whole chain: from noise.")]
    parts.append(page.table(["stage", *columns.values()],
                            [[r["stage"], *(text(r.get(name)) for name in columns)] for r in rows]))
    parts.append(page.bars(names, list(columns.values()), *(
        [[r[name] and r[name][part] if r.get(name) else None for r in rows] for name in columns]
        for part in ("value", "error")), "kernel distance", "Distance by stage and input"))
    shares = result["shares"]
    parts.append(page.bars(names, ["share"], [[s["share"] for s in shares]], [[s["error"] for s in shares]],
                           "share", "The share of the final error that each stage adds"))
    parts.append(page.table(["stage", "share of the final error", "final distance when real input enters here"],
                            [[s["stage"], f"{s['share']:.1%} ± {s['error']:.1%}", text(s["distance_when_real_enters"])]
                             for s in shares]))
    parts.append(page.table(["real input", "PSNR", "bicubic", "SSIM", "bicubic", "consistency, MSE × 1e5"], [
        [r["stage"], f"{m['psnr']:.2f} dB", f"{m['psnr_bicubic']:.2f} dB", f"{m['ssim']:.4f}",
         f"{m['ssim_bicubic']:.4f}", f"{m['consistency']:.2f}"] for r in rows if (m := r.get("restoration"))]))
    last, shown = len(names) - 1, range(min(SHOWN, len(real.pairs())))
    for j, name in enumerate(names):
        strip = np.concatenate([made[j](last, i) for i in shown], axis=1)
        parts.append(page.picture(strip, f"real input enters at {name}" if j else "the whole chain, from noise"))
    strip = np.concatenate([real.read(*real.pairs()[i], cascade.stages[-1].size) for i in shown], axis=1)
    parts.append(page.picture(strip, "the real pictures"))
    return parts

"""Samplers, targets, augmentations, few-step students and recipes of the demo stages, measured by one command.

    cdm eval weights lite0
    python -m experiments.quality --workdir runs/quality --out experiments/quality

It goes on where it was stopped. `--parts` measures some of these anew and leaves the others in --out as they are, if
they are of the same stages, features and numbers of images. Distances are kernel distances (cdm.evals.scoring) in lite0
features from the training pictures, ± one standard error by the jackknife; the pictures of two rows with one input and
one count are paired, so the error of a difference is smaller than theirs. The held-out loss is that of v of the
standardised picture, over 64 held-out pictures and 16 levels even in logSNR: one measure for all targets.

1. samplers: the shipped stages, each by every sampler at several numbers of network evaluations; all else as shipped,
   and the input of each that of the shipped stages below it.
   variance: base_32 with learned variance (learned.py), trained for as many images as those of 2, by the three
   variances of an ancestral step on subsequences of its 4000.
2. targets: base_32 and sr_64 of configs/demo trained anew to say eps, x0 or v, each with uniform weight in its own
   space, for the few images that are named here.
3. augmentation: sr_64 trained anew to say v with none, with noise (level up to 0.5), with blur (half of the pictures,
   sigma 0.4 to 0.6), and sampled with real and with generated low-res input, the one trained with noise at several
   levels; and so the shipped one, which says x0.
4. students: `cdm distill` of the shipped base_32, beside the samplers of 1.
5. recipe: sr_64 of configs/demo trained anew for few images: as the config is, with another seed (how much a training
   owes to chance), another weight, a schedule shifted by 2 ln(32 / 64) from the input's size to the output's, and
   other widths; with real low-res input, in 1 step, as it ships, and in 8.
"""

import argparse
import json
import math
import pathlib

import numpy as np

import cdm
from cdm.cascade import Cascade, load_cascade, shipped
from cdm.data.sources import EMBEDDED, open_source
from cdm.evals import knots, page, scoring
from cdm.evals.features import load_extractor
from cdm.evals.report import write_lowres
from cdm.evals.sets import ImageSet
from cdm.evals.tune import Search
from cdm.images.files import hold, write_json
from cdm.samples import file_name, write_samples
from cdm.settings import OPTIONS, settings_of
from cdm.stage import load_stage
from experiments.demo.train import cdm as command

SAMPLERS = {"ancestral, small": {"sampler": "ancestral", "variance": "small"},
            "ancestral, large": {"sampler": "ancestral", "variance": "large"},
            "ddim": {"sampler": "ddim"}, "ddim, eta 0.5": {"sampler": "ddim", "eta": 0.5},
            "dpmpp_2m": {"sampler": "dpmpp_2m"}, "dpmpp_2m_sde": {"sampler": "dpmpp_2m_sde"},
            "heun": {"sampler": "heun"}, "heun, churn 5": {"sampler": "heun", "churn": 5.0},
            "heun, EDM's grid": {"sampler": "heun", "grid": "rho"}}
# Of each stage: network evaluations, and images of each class over those of the first; a distance takes 20 at least.
STAGES = {"base_32": ((4, 8, 16), 1.0), "sr_64": ((2, 4, 8), 1.0), "sr_128": ((2, 4), 0.5),
          "sr_256": ((2, 4), 0.5)}
AUGMENTATIONS = {
    "none": {"augment.max_level": 0.0, "sample.aug_level": 0.0}, "noise": {"augment.max_level": 0.5},
    "blur": {"augment.max_level": 0.0, "sample.aug_level": 0.0, "augment.blur_probability": 0.5,
             "augment.blur_sigma": (0.4, 0.6)}}
LEVELS = {"noise": (0.0, 0.05, 0.1, 0.2, 0.3), "shipped": (0.0, 0.05, 0.1, 0.2)}  # others know no noise
STUDENTS = (8, 4, 2)
TITLE = "Samplers, targets, augmentations, students and recipes of the demo"
RECIPES = {
    "as it is": {}, "another seed": {"train.seed": 1}, "weight min_snr": {"diffusion.weight": "min_snr"},
    "schedule shifted by -1.39": {"diffusion.schedule.shift": 2 * math.log(1 / 2)},
    "16 channels": {"model.channels": 16}, "32 channels": {"model.channels": 32}}


class Bench:
    """What all parts share: the shipped cascade, the folder of work, the distances."""

    def __init__(self, work, n, images):
        self.work, self.n, self.images = work, n, images
        self.cascade, self.source = load_cascade(shipped()), open_source(EMBEDDED, "heldout")
        sizes = [stage.size for stage in self.cascade.stages]
        self.scorer = scoring.Scorer(load_extractor(), EMBEDDED, sizes, work / "features")

    def search(self, name, cascade):
        (self.work / name).mkdir(parents=True, exist_ok=True)
        return Search(cascade, self.scorer, self.work / name)

    def measure(self, search, k, tried, n, below=None):
        """Rows of stage k of the cascade of `search`, one for each of `tried`, {name: settings}."""
        now, rows = search.cascade.settings()[k], []
        for i, (name, changes) in enumerate(tried.items()):
            kept = {key: value for key, value in now._asdict().items() if key not in OPTIONS.values()}
            settings = settings_of(search.cascade.stages[k], **{**kept, **changes})
            rows.append({"name": name, **search.measure(k, i, settings, n, below)})
        return rows

    def trained(self, name, config, changes, file=None):
        """(its name, the stage) of configs/demo/<config>.py, or of `file`, trained with changes for the images that all
        get here."""
        name = f"{config}_{name}_{self.images[config]}"
        run, stage = self.work / "runs" / name, self.work / "stages" / name
        warm = max(self.images[config] // 10, 1)
        changes = {"train.images": self.images[config], "train.warmup": warm, "train.ema_half_life": warm,
                   "log.grid": 10**9, **changes}
        if not stage.exists():
            file = file or pathlib.Path(__file__).parents[2] / "configs" / "demo" / f"{config}.py"
            command("train", f"--config={file}", f"--workdir={run}",
                    *(f"--config.{key}={value}" for key, value in changes.items()))
            command("export", run, "--out", stage)
        return name, load_stage(stage)

    def loss(self, stage):
        """The held-out loss of v at augmentation level 0: (SNR + 1) times the error of x0, of the standardised
        picture."""
        path = self.work / "losses.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        if stage.sha256 not in known:
            logsnr, error = knots.errors(stage, self.source, 0.0 if stage.lowres_size else None, count=16)
            std = stage.config.diffusion.data_std
            known[stage.sha256] = float(np.mean((std**2 * np.exp(logsnr) + 1) * error / std**2))
            write_json(path, known)
        return known[stage.sha256]

    def real_input(self, stage):
        """A folder of low-res input made of held-out pictures, for the stage after the base."""
        real = scoring.Real(f"{EMBEDDED}:heldout", self.cascade.classes, self.n)
        folder = self.work / f"real_input_of_{stage.name}"
        write_lowres(folder, [file_name(self.cascade.classes, *pair) for pair in real.pairs], stage,
                     real.at(stage.size))
        return folder

    def generated_input(self):
        """The same, made by the shipped base stage."""
        folder = self.work / "generated_input"
        write_samples(self.cascade, folder, self.labels, self.n, stop_at=self.cascade.stages[0].name)
        return folder

    @property
    def labels(self):
        return range(len(self.cascade.classes))


def samplers(bench):
    """Part 1: {stage: rows}."""
    search, found = bench.search("samplers", bench.cascade), {}
    for k, stage in enumerate(bench.cascade.stages):
        steps, share = STAGES[stage.name]
        n = max(round(bench.n * share), 1)
        below = search.below(k, n) if k else None
        # The stage samples as it is shipped again afterwards, for those above it.
        before = bench.cascade.sampling[stage.name]
        tried = {f"{name}, {s}": {**changes, "steps": s} for name, changes in SAMPLERS.items() for s in steps}
        found[stage.name] = bench.measure(search, k, tried, n, below)
        bench.cascade.sampling[stage.name] = before
    return found


def variance(bench):
    """The rest of part 1: rows."""
    name, stage = bench.trained("learned", "base_32", {}, pathlib.Path(__file__).with_name("learned.py"))
    tried = {f"ancestral, {kind}, {s}": {"sampler": "ancestral", "variance": kind, "steps": s}
             for kind in ("small", "large", "learned") for s in STAGES["base_32"][0]}
    return bench.measure(bench.search(f"variance/{name}", Cascade([stage])), 0, tried, bench.n)


def losses(bench):
    """Held-out losses of the shipped stages, {name: loss}."""
    return {stage.name: bench.loss(stage) for stage in bench.cascade.stages}


def targets(bench):
    """Part 2: rows."""
    found = []
    for config in ("base_32", "sr_64"):
        for target in ("eps", "x0", "v"):
            name, stage = bench.trained(target, config, {"diffusion.target": target})
            k = 1 if stage.lowres_size else 0
            cascade = Cascade([*bench.cascade.stages[:k], stage], {"base_32": bench.cascade.sampling["base_32"]} if k
                              else {})
            search = bench.search(f"targets/{name}", cascade)
            tried = {"8": {"steps": 8, "aug_level": 0.0}} if k else {"16": {"steps": 16, "guidance": 0.0}}
            row, = bench.measure(search, k, tried, bench.n, bench.real_input(stage) if k else None)
            found.append({**row, "name": target, "held_out_loss": bench.loss(stage)})
    return found


def augmentation(bench):
    """Part 3: the distances of the inputs, rows, and the gap at each level: what generated input costs there."""
    rows, first = [], bench.cascade.stages[1]
    inputs = {"real": bench.real_input(first), "generated": bench.generated_input()}
    for name in (*AUGMENTATIONS, "shipped"):
        run, stage = ("sr_64_shipped", first) if name == "shipped" else bench.trained(
            name, "sr_64", {"diffusion.target": "v", **AUGMENTATIONS[name]})
        cascade, loss = Cascade([bench.cascade.stages[0], stage]), bench.loss(stage)
        for given, folder in inputs.items():
            tried = {f"{name}, {level}": {"steps": 8, "aug_level": level}
                     for level in LEVELS.get(name, (0.0,))}
            found = bench.measure(bench.search(f"augmentation/{run}_{given}", cascade), 1, tried, bench.n, folder)
            for row in found:
                less = scoring.jackknife(np.array(row["without"]) - np.array(found[0]["without"]))
                rows.append({**row, "augmentation": name, "level": row["settings"]["aug_level"], "input": given,
                             "over_level_0": {"value": row["score"] - found[0]["score"], "error": less},
                             "held_out_loss": loss})
    files = [file_name(bench.cascade.classes, label, count) for count in range(bench.n) for label in bench.labels]
    distances = {given: bench.scorer.distance(ImageSet(folder, chosen=files)) for given, folder in inputs.items()}
    pairs = [(row, other) for row in rows for other in rows if row["input"] == "real" and other["input"] == "generated"
             and (row["augmentation"], row["level"]) == (other["augmentation"], other["level"])]
    return {"input": {given: {"score": float(d.value), "error": d.error} for given, d in distances.items()},
            "rows": rows,
            "gaps": [{"augmentation": row["augmentation"], "level": row["level"], "value": other["score"] - row["score"],
                      "error": float(np.hypot(row["error"], other["error"]))} for row, other in pairs]}


def students(bench):
    """Part 4: rows."""
    images, teacher = bench.images["students"], shipped() / "base_32"
    work, guidance = bench.work / f"students_{images}", bench.cascade.sampling["base_32"]["guidance"]
    if not (work / f"stage_{STUDENTS[-1]}").exists():
        command("distill", teacher, "--workdir", work, "--steps", ",".join(map(str, STUDENTS)), "--guidance", guidance,
                f"--config.train.images={images}", "--config.train.batch_size=16", "--config.train.learning_rate=6e-4")
    found = []
    for steps in STUDENTS:
        search = bench.search(f"{work.name}/measured_{steps}", Cascade([load_stage(work / f"stage_{steps}")]))
        found += bench.measure(search, 0, {f"student, {steps}": {"steps": steps}}, bench.n)
    return found


def recipe(bench):
    """Part 5: rows."""
    found = []
    for name, changes in RECIPES.items():
        run, stage = bench.trained("recipe_" + "_".join(name.split()), "sr_64", changes)
        search = bench.search(f"recipe/{run}", Cascade([bench.cascade.stages[0], stage]))
        tried = {f"{name}, {steps}": {"steps": steps, "aug_level": 0.0} for steps in (1, 8)}
        found += [{**row, "recipe": name, "parameters": stage.parameters, "held_out_loss": bench.loss(stage)}
                  for row in bench.measure(search, 1, tried, bench.n, bench.real_input(stage))]
    return found


PARTS = {"losses": losses, "samplers": samplers, "variance": variance, "targets": targets,
         "augmentation": augmentation, "students": students, "recipe": recipe}


def show(result):
    """The parts of the page."""
    shown = [page.paragraph("Kernel distances in lite0 features from the training emoji, ± one standard error.")]
    few = result.get("students", [])
    tables = [*result.get("samplers", {}).items(), *([("base_32, learned variance", result["variance"])]
                                                     if "variance" in result else [])]
    for stage, rows in tables:
        series = {}
        for row in rows:
            kind = row["name"].rpartition(", ")[0]
            series.setdefault(kind, []).append((row["evaluations"], row["score"], row["error"]))
        if stage == "base_32" and few:
            series["students"] = [(row["evaluations"], row["score"], row["error"]) for row in few]
        if stage in result.get("losses", {}):
            shown.append(page.paragraph(f"{stage}: held-out loss of v {result['losses'][stage]:.4f}."))
        shown.append(page.points(series, "network evaluations an image", "kernel distance", f"{stage}, "
                                 f"{rows[0]['n']} images of each class"))
        steps = sorted({x for of in series.values() for x, *_ in of})
        by = {kind: {x: f"{y:.4f} ± {e:.4f}" for x, y, e in of} for kind, of in series.items()}
        shown.append(page.table([f"{stage}, evaluations", *steps],
                                [[kind, *(of.get(x, "–") for x in steps)] for kind, of in by.items()]))
    if "targets" in result:
        shown.append(page.table(["stage", "target", "held-out loss of v", "distance"], [
            [row["stage"], row["name"], f"{row['held_out_loss']:.4f}", f"{row['score']:.4f} ± {row['error']:.4f}"]
            for row in result["targets"]]))
    if "augmentation" in result:
        rows = result["augmentation"]["rows"]
        shown.append(page.points({f"{name}, {given} input": [
            (row["level"], row["score"], row["error"]) for row in rows
            if (row["augmentation"], row["input"]) == (name, given)]
            for name in (*AUGMENTATIONS, "shipped") for given in ("real", "generated")},
            "augmentation level at sampling", "kernel distance",
            "sr_64 by its augmentation in training and the level in sampling"))
        shown.append(page.table(["augmentation, level", "input", "distance", "over level 0", "held-out loss of v"], [
            [row["name"], row["input"], f"{row['score']:.4f} ± {row['error']:.4f}",
             f"{row['over_level_0']['value']:+.4f} ± {row['over_level_0']['error']:.4f}",
             f"{row['held_out_loss']:.4f}"] for row in rows]))
        shown.append(page.table(["augmentation", "level", "generated less real input"], [
            [gap["augmentation"], gap["level"], f"{gap['value']:.4f} ± {gap['error']:.4f}"]
            for gap in result["augmentation"]["gaps"]]))
    if "recipe" in result:
        rows = result["recipe"]
        shown.append(page.table(["sr_64", "parameters", "evaluations", "distance", "held-out loss of v"], [
            [row["recipe"], row["parameters"], row["evaluations"], f"{row['score']:.4f} ± {row['error']:.4f}",
             f"{row['held_out_loss']:.4f}"] for row in rows]))
    return shown


def plain(value):
    """Without the distances without a block each, of which the errors were made."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key != "without"}
    return [plain(part) for part in value] if isinstance(value, list) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder for trainings and samples")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of quality.json and quality.html")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("-n", type=int, default=6, help="images of each class for a distance (default: 6)")
    parser.add_argument("--base-images", type=int, default=4000, help="of a training of base_32 (default: 4000)")
    parser.add_argument("--sr-images", type=int, default=6000, help="of a training of sr_64 (default: 6000)")
    parser.add_argument("--student-images", type=int, default=3000, help="of each student (default: 3000)")
    args = parser.parse_args()
    images = {"base_32": args.base_images, "sr_64": args.sr_images, "students": args.student_images}
    args.workdir.mkdir(parents=True, exist_ok=True)
    with hold(args.workdir, "workdir"):
        bench = Bench(args.workdir, args.n, images)
        result = {"cdm": cdm.__version__, "n": args.n, "images": images, **bench.scorer.protocol,
                  "stages": {stage.name: stage.sha256 for stage in bench.cascade.stages}}
        path = args.out / "quality.json"
        known = json.loads(path.read_text()) if path.exists() else result
        other = [key for key in known if key not in PARTS and known[key] != result.get(key)]
        if other:
            parser.error(f"--out {args.out} holds what was measured with another {', '.join(other)}")
        result = {**result, **{name: known[name] for name in PARTS if name in known}}
        for name in args.parts:
            result[name] = plain(PARTS[name](bench))
            write_json(path, result)
            page.write_page(args.out / "quality.html", TITLE, show(result))


if __name__ == "__main__":
    main()

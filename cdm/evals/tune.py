"""`cdm tune`: the choices that are made after training, searched stage by stage from the lowest.

A candidate is a stage's Settings. All candidates of a stage sample the same images of the same seed, from the same
low-res images, which the stages below made once with what was found for them (Ho et al. 2021, sec. 4.2: the search
over the augmentation level needs only stored z_0). The candidates are halved in rungs (successive halving, Jamieson &
Talwalkar 2016): of a budget of B images a stage, rung r of R gives each of its |S_r| candidates

    n_r = B / (R |S_r|) images,   |S_0| all candidates,   |S_{r+1}| = half of |S_r|, but FINAL at least           (1)

and the better half by distance (cdm.evals.scoring) goes on, its images kept. The winner is the cheapest, in network
evaluations, of the last rung's candidates within two standard errors of the best: those of the difference, as pictures
are paired.

WORK/<stage>/<candidate>/ are folders of samples, WORK/rows.jsonl what was measured; the same command goes on with both.
"""

import functools
import itertools
import json
import pathlib

import numpy as np

import cdm
from cdm.cascade import load_cascade, write_sampling
from cdm.data.sources import open_source
from cdm.diffusion import samplers
from cdm.evals import knots, page, rows
from cdm.evals.scoring import LEAST, Scorer, check_finished, jackknife
from cdm.evals.sets import ImageSet
from cdm.images.files import hold, write_json
from cdm.samples import file_name, write_samples
from cdm.settings import OPTIONS, settings_of

FINAL = 4  # candidates in the last rung
ARGUMENTS = "arguments.json"


def candidates(stage, now, guide=None, steps=None, guidance=None, sampler=None, grid=None, aug_level=None,
               source=None):
    """The Settings of a stage to be tried: its present ones `now` with every combination of these values, each a
    sequence or None for a few around the present value, which is among them; none twice. `guide` is the Stage that
    guides it, if one does; of a `grid` named "searched" the levels are found at the pictures of the Source `source`
    (cdm.evals.knots)."""
    limit = stage.lowres_size and stage.config.augment.max_level
    if steps is None:
        steps = sorted({max(now.steps // 2, 1), now.steps, 2 * now.steps})
    if guidance is None:
        guided = guide or not stage.lowres_size and stage.classes and stage.config.train.class_dropout > 0
        guidance = sorted({0.0, 0.5, 1.0, 2.0, 4.0, now.guidance}) if guided else (now.guidance,)
    values = {"steps": steps, "guidance": guidance, "sampler": sampler or (now.sampler,), "grid": grid or (now.grid,)}
    if stage.lowres_size:
        usual = sorted({a for a in (0.0, 0.05, 0.1, 0.2, 0.3) if a <= limit} | {now.aug_level})
        values["aug_level"] = usual if aug_level is None else aug_level
    found = functools.cache(lambda aug_level: knots.errors(stage, source, aug_level))

    def settings(combination):
        tried = dict(zip(values, combination))
        if tried["grid"] == "searched":
            steps = samplers.intervals(tried["sampler"], tried["steps"])
            tried["grid"] = knots.levels(*found(tried.get("aug_level")), steps)
        return settings_of(stage, guide, **{**_kept(now, sampler), **tried})

    # Levels given as a grid say the steps too, whatever these were to be.
    return list(dict.fromkeys(map(settings, itertools.product(*values.values()))))


def _kept(now, sampler):
    """The present settings, less the option of a sampler where others are tried."""
    return {name: value for name, value in now._asdict().items() if not (sampler and name in OPTIONS.values())}


def cost(settings):
    """Network evaluations an image."""
    steps = settings.steps
    if settings.sampler == "heun":  # an even number leaves one over
        steps = 2 * samplers.intervals("heun", steps) - 1
    return steps * (2 if settings.guidance else 1)


def rungs(count, budget, classes):
    """Eq. 1: [(candidates, images of each class for one)] of each rung; ValueError if the budget is too small."""
    sizes = [count]
    while sizes[-1] > FINAL:
        sizes.append(max(FINAL, sizes[-1] // 2))
    found = [(size, budget // (len(sizes) * size * classes)) for size in sizes]
    least = -(-LEAST // classes)  # of each class, for an error
    if found[0][1] < least:
        raise ValueError(f"`budget` (={budget}) must be at least {least * len(sizes) * count * classes} images a "
                         f"stage, for {count} candidates in {len(sizes)} rungs and {classes} classes")
    return found


class Search:
    """A search in the folder `work`, for a Cascade whose `sampling` it sets to what it finds."""

    def __init__(self, cascade, scorer, work, seed=0, batch_size=None):
        self.cascade, self.scorer, self.work = cascade, scorer, pathlib.Path(work)
        self._seed, self._batch_size = seed, batch_size
        self._path, self._labels = self.work / "rows.jsonl", range(max(len(cascade.classes), 1))
        self.rows = rows.read(self._path)
        rows.write(self._path, self.rows)  # without half of the last one

    def stage(self, k, settings, budget):
        """Search stage k among the list of Settings; returns {"stage", "winner", "rungs", "rows"}, and the cascade has
        the winner set."""
        stage, plan = self.cascade.stages[k], rungs(len(settings), budget, len(self._labels))
        left, table = list(range(len(settings))), []
        below = self.below(k, plan[-1][1]) if k else None
        for rung, (size, n) in enumerate(plan):
            if rung:
                left = sorted(left, key=lambda c: found[c]["score"])[:size]
            found = {c: self.measure(k, c, settings[c], n, below) for c in left}
            table += found.values()
        best = min(found.values(), key=lambda row: row["score"])
        near = [c for c, row in found.items() if row["score"] - best["score"] <= 2 * jackknife(
            np.array(row["without"]) - np.array(best["without"]))]
        winner = min(near, key=lambda c: (cost(settings[c]), found[c]["score"]))
        self.cascade.sampling[stage.name] = _chosen(settings[winner])
        return {"stage": stage.name, "winner": _chosen(settings[winner]), "best": best["settings"],
                "rungs": [{"candidates": size, "images": n * len(self._labels)} for size, n in plan], "rows": table}

    def below(self, k, n):
        """The folder of the low-res images that stage k is given, n of each class."""
        folder = self.work / f"input_of_{self.cascade.stages[k].name}"
        write_samples(self.cascade, folder, self._labels, n, self._seed, self._batch_size,
                      stop_at=self.cascade.stages[k - 1].name)
        return folder

    def measure(self, k, candidate, settings, n, below):
        """The row of a candidate at n images a class: sampled and scored, or known from before."""
        stage = self.cascade.stages[k]
        row = {"stage": stage.name, "candidate": candidate, "settings": _chosen(settings), "n": n}
        known = next((r for r in self.rows if row.items() <= r.items()), None)
        if known:
            return known
        folder = self.work / stage.name / f"{candidate:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        if below and not (folder / self.cascade.stages[k - 1].name).is_symlink():
            (folder / self.cascade.stages[k - 1].name).symlink_to(below.resolve())
        self.cascade.sampling[stage.name] = _chosen(settings)
        write_samples(self.cascade, folder, self._labels, n, self._seed, self._batch_size,
                      start_at=stage.name if k else None, stop_at=stage.name)
        files = [file_name(self.cascade.classes, label, count) for count in range(n) for label in self._labels]
        score = self.scorer.distance(ImageSet(folder, chosen=files))
        row |= {"score": float(score.value), "error": score.error, "evaluations": cost(settings),
                "without": [float(v) for v in score.without]}
        with self._path.open("a") as f:
            f.write(json.dumps(row) + "\n")
        self.rows.append(row)
        return row


def _chosen(settings):
    """Settings as a cascade folder keeps them."""
    return {name: value for name, value in settings.as_json().items() if value is not None}


def tune(folder, extractor, reference, work, budget=2000, seed=0, stages=None, batch_size=None, **values):
    """Search the settings of `stages` (names; None for all) of the cascade in `folder`, and write what was found of
    them into its cascade.json, the whole table into its tune.json and tune.html, beside what is there of other stages;
    returns what of tune.json is of this search, a list with an entry a stage.

    reference: the real pictures that distances are from (what `open_source` takes), in the features of the Extractor;
    work: a folder for samples and measurements, which goes on from the settings that the cascade had when it was begun;
    values: sequences of those of `candidates`.
    """
    cascade, work, folder = load_cascade(folder), pathlib.Path(work), pathlib.Path(folder)
    if not (folder / "cascade.json").exists():
        raise ValueError(f"`cascade` (={folder}) must be a cascade folder, which holds settings, not a stage folder")
    if (work / ARGUMENTS).exists():
        cascade.sampling = json.loads((work / ARGUMENTS).read_text())["before"]
    names = [stage.name for stage in cascade.stages]
    chosen = [cascade.index(name, "stage") for name in stages] if stages else range(len(names))
    if values.get("aug_level") is not None and not any(chosen):
        raise ValueError(f"`aug_level` (={values['aug_level']}) must go with a super-resolution stage, not {names[0]}")
    tried, now = {}, cascade.settings()
    check_finished(*([every[k] for k in chosen] for every in (cascade.stages, now)))
    source = open_source(reference) if "searched" in (values.get("grid") or ()) else None
    for k in sorted(chosen):
        mine = {name: value for name, value in values.items() if k or name != "aug_level"}
        tried[k] = candidates(cascade.stages[k], now[k], cascade.guides.get(names[k]), **mine, source=source)
    for settings in tried.values():
        rungs(len(settings), budget, max(len(cascade.classes), 1))
    work.mkdir(parents=True, exist_ok=True)
    with hold(work, "workdir"):
        scorer = Scorer(extractor, reference, [cascade.stages[k].size for k in tried], work / "features", "data")
        about = {"cdm": cdm.__version__, "seed": seed, "budget": budget, **scorer.protocol,
                 "stages": {s.name: s.sha256 for s in cascade.stages}, "before": dict(cascade.sampling),
                 "searched": {names[k]: [_chosen(s) for s in settings] for k, settings in tried.items()}}
        rows.agree(work / ARGUMENTS, about, "workdir")
        search = Search(cascade, scorer, work, seed, batch_size)
        found = [search.stage(k, settings, budget) for k, settings in tried.items()]
    for part in found:
        part["rows"] = [{name: value for name, value in row.items() if name != "without"} for row in part["rows"]]
        part["about"] = {**about, "searched": about["searched"][part["stage"]]}
    _keep(folder, names, found)
    return found


def _keep(folder, names, found):
    """Write what was found of some stages into the folder of a cascade of stages `names`."""
    path = folder / "tune.json"
    with hold(folder, "cascade"):
        write_sampling(folder, {part["stage"]: part["winner"] for part in found})
        before = json.loads(path.read_text())["found"] if path.exists() else []
        # Of a stage the last one; tables of before there was an `about` of each do not tell what they are of.
        last = {part["stage"]: part for part in [*before, *found] if "about" in part}
        parts = [last[name] for name in names if name in last]
        write_json(path, {"found": parts})
        page.write_page(folder / "tune.html", "The search for a cascade's settings", _page(parts))


def _page(parts):
    shown = [page.paragraph(
        "Distances are kernel distances, ± one standard error. Successive halving; the winner is the cheapest within "
        "two standard errors of the best. Every candidate of a stage saw the same low-res images.")]
    for part in parts:
        shown += _stage(part)
    return shown


def _stage(part):
    """The pieces of the page for one stage."""
    about = part["about"]
    pieces = [f"<h2>{part['stage']}</h2>", page.paragraph(
        f"In features of {about['features']}, from {about['reference']['n']} real pictures "
        f"({about['reference']['source']}); {about['budget']} images.")]
    last = max(row["n"] for row in part["rows"])
    names = dict.fromkeys(name for row in part["rows"] for name in row["settings"])
    # A setting of one sampler alone is not among those of the others.
    tried = [name for name in names if len({str(row["settings"].get(name)) for row in part["rows"]}) > 1]
    shown = {}
    for row in part["rows"]:
        kind = ", ".join(f"{name} {row['settings'][name]}" for name in tried
                         if name != "steps" and name in row["settings"]) or "all"
        if row["n"] == last:
            shown.setdefault(kind, []).append((row["evaluations"], row["score"], row["error"]))
    won = next(row for row in part["rows"] if row["n"] == last and row["settings"] == part["winner"])
    pieces.append(page.points(shown, "network evaluations an image", "kernel distance",
                              "The last rung; the winner is ringed",
                              (won["evaluations"], won["score"], won["error"])))
    table = sorted(part["rows"], key=lambda row: (-row["n"], row["score"]))
    same = [f"{name} {value}" for name, value in part["winner"].items() if name not in tried]
    pieces.append(page.paragraph(f"The same for all: {', '.join(same)}"))
    pieces.append(page.table([*tried, "images a class", "evaluations", "distance"], [
        [*(row["settings"].get(n, "–") for n in tried), row["n"], row["evaluations"],
         f"{row['score']:.4f} ± {row['error']:.4f}"] for row in table],
        [i for i, row in enumerate(table) if row is won]))
    return pieces

"""The report on a study: report.json, report.html and fool_rates.svg.

The fool rate is the share of trials in which a rater chose the method's picture over the real one; 50 % is what
guessing gives. Only raters who finished are counted, as each of them has all methods in equal parts.
"""

import base64
import collections
import importlib.resources
import io
import pathlib
import string
from html import escape

import numpy as np
from PIL import Image

import cdm
from cdm.evals import intervals
from cdm.evals.page import table
from cdm.images.files import replace, write_json

SHOWN = 4  # best and worst pictures of a method on the page


def _spread(values):
    """Median, quartiles and range."""
    q = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).round(1).tolist()
    return dict(zip(("least", "quartile_1", "median", "quartile_3", "most"), q))


def _rate(fooled, trials):
    return {"trials": int(trials), "fooled": int(fooled), "fool_rate": float(fooled / trials),
            "wilson_95": list(intervals.wilson(fooled, trials))}


def summarize(store):
    """The report as a JSON object: protocol and results."""
    protocol, trials = store.protocol, store.trials()
    open_raters = {t["rater"] for t in trials if t["chosen_side"] is None}
    begun = sorted({t["rater"] for t in trials})
    raters = [r for r in begun if r not in open_raters]
    counted = [t for t in trials if t["rater"] not in open_raters]
    if not raters:
        raise ValueError(f"`store` must have a rater who finished; {len(begun)} began, none did")
    shape = len(raters), len(protocol["images"]), len(protocol["methods"])
    views, fooled = np.zeros(shape, int), np.zeros(shape, int)
    for t in counted:
        at = raters.index(t["rater"]), t["image"], t["method"]
        views[at] += 1
        fooled[at] += t["chosen_side"] != t["real_side"]
    low, high = intervals.over_raters(fooled.sum(1), views.sum(1), protocol["seed"])

    methods, images, order = {}, {name: {} for name in protocol["images"]}, {}
    for m, method in enumerate(protocol["methods"]):
        n, k = views[..., m].sum(0), fooled[..., m].sum(0)
        if n.sum() == 0:
            continue
        seen = np.flatnonzero(n)
        methods[method] = {
            **_rate(k.sum(), n.sum()), "raters_95": None if np.isnan(low[m]) else [float(low[m]), float(high[m])],
            "reaction_ms": _spread([t["reaction_ms"] for t in counted if t["method"] == m])}
        for i in seen:
            images[protocol["images"][i]][method] = _rate(k[i], n[i])
        order[method] = [protocol["images"][i] for i in sorted(seen, key=lambda i: (-k[i] / n[i], -n[i], i))]
    results = {
        "raters": {"begun": len(begun), "finished": len(raters), "left_out": len(open_raters)},
        "answers": {
            "counted": len(counted),
            "left_out": sum(t["chosen_side"] is not None for t in trials) - len(counted),
            "handed_out_again": sum(t["handed_out"] > 1 for t in counted),
            "left_chosen": sum(t["chosen_side"] == "left" for t in counted) / len(counted),
            "viewed_ms": _spread([t["viewed_ms"] for t in counted]),
            "means": dict(collections.Counter(t["means"] for t in counted)),
            "scale": {str(s): n for s, n in sorted(collections.Counter(t["scale"] for t in counted).items())},
        },
        "methods": methods,
        "images": images,
        "most_to_least_often_taken_for_real": order,
        "fool_rate_of_each_rater": [float(x) for x in fooled.sum((1, 2)) / views.sum((1, 2))],
    }
    return {
        "kind": "study",
        "protocol": {**protocol, "hash": store.hash, "raters": len(raters), "counted": "raters who finished",
                     "intervals": f"95 %: Wilson score; percentiles of {intervals.RESAMPLES} bootstrap samples of "
                                  "raters",
                     "cdm": cdm.__version__},
        "results": results,
    }


def _percent(share):
    return f"{100 * share:.1f}"


def _interval(pair):
    return "–" if pair is None else f"{_percent(pair[0])} to {_percent(pair[1])}"


def figure(results):
    """The fool rates as SVG: a row a method with both intervals, and a faint dot for each picture."""
    names = list(results["methods"])
    left, width, row, top = 190, 760, 58, 34
    bottom = top + row * len(names)

    def x(share):
        return round(left + (width - left - 120) * share, 1)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 46}" width="{width}" '
           'font-family="system-ui, sans-serif" font-size="13" fill="#222">'
           '<rect width="100%" height="100%" fill="#fff"/>']
    for tick in range(0, 101, 10):
        stroke = 'stroke="#555" stroke-dasharray="5 4"' if tick == 50 else 'stroke="#e4e4e4"'
        out.append(f'<line x1="{x(tick / 100)}" x2="{x(tick / 100)}" y1="{top - 8}" y2="{bottom}" {stroke}/>'
                   f'<text x="{x(tick / 100)}" y="{bottom + 18}" text-anchor="middle">{tick}</text>')
    out.append(f'<text x="{x(0.5)}" y="{bottom + 38}" text-anchor="middle">fool rate, %</text>'
               f'<text x="{x(0.5)}" y="{top - 16}" text-anchor="middle" fill="#555">guessing</text>')
    for i, name in enumerate(names):
        m, y = results["methods"][name], top + row * i + 20
        rates = sorted(image[name]["fool_rate"] for image in results["images"].values() if name in image)
        out += [f'<circle cx="{x(rate)}" cy="{y + 14 + 5 * (j % 4)}" r="2.2" fill="#777" fill-opacity=".6"/>'
                for j, rate in enumerate(rates)]
        if m["raters_95"]:
            low, high = (x(share) for share in m["raters_95"])
            out.append(f'<path d="M{low} {y}H{high}M{low} {y - 6}V{y + 6}M{high} {y - 6}V{y + 6}" stroke="#222"/>')
        low, high = (x(share) for share in m["wilson_95"])
        out.append(f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}" stroke="#222" stroke-width="5"/>'
                   f'<circle cx="{x(m["fool_rate"])}" cy="{y}" r="6" fill="#fff" stroke="#222" stroke-width="2"/>'
                   f'<text x="{left - 14}" y="{y + 5}" text-anchor="end">{escape(name)}</text>'
                   f'<text x="{width - 106}" y="{y + 5}">{_percent(m["fool_rate"])} %, n = {m["trials"]}</text>')
    return "".join(out) + "</svg>\n"


def _strip(store, method, names, images):
    """Pictures side by side: the real one, the method's, and the low-res one if it was shown."""
    out, version = [], 1 + store.protocol["methods"].index(method)
    middle = [("low-res", len(store.protocol["methods"]) + 1)] if store.protocol["task"] == 1 else []
    for name in names:
        row, parts = images[name][method], []
        for what, v in [("real", 0), *middle, (method, version)]:
            png = io.BytesIO()
            Image.fromarray(store.picture(store.protocol["images"].index(name), v)).save(png, format="png")
            parts.append(f'<div><img alt="{escape(what)}" src="data:image/png;base64,'
                         f'{base64.b64encode(png.getvalue()).decode()}"><span>{escape(what)}</span></div>')
        out.append(f'<figure><div class="pair">{"".join(parts)}</div><figcaption>{escape(name)}: {row["fooled"]} of '
                   f'{row["trials"]}, {_interval(row["wilson_95"])} %</figcaption></figure>')
    return f'<div class="strip">{"".join(out)}</div>'


def page(store, report):
    """The report as HTML that needs nothing else."""
    protocol, results = report["protocol"], report["results"]
    raters, answers = results["raters"], results["answers"]
    methods = table(
        ("method", "trials", "fooled", "fool rate, %", "95 %, Wilson", "95 %, over raters",
         "reaction, s: median (quartiles)"),
        [(name, m["trials"], m["fooled"], _percent(m["fool_rate"]), _interval(m["wilson_95"]),
          _interval(m["raters_95"]), "{median:.2f} ({quartile_1:.2f} to {quartile_3:.2f})".format(
              **{k: v / 1000 for k, v in m["reaction_ms"].items()})) for name, m in results["methods"].items()])
    shown = []
    for method, order in results["most_to_least_often_taken_for_real"].items():
        count = min(SHOWN, (len(order) + 1) // 2)
        shown.append(f"<h2>{escape(method)}</h2><h3>Most often taken for real</h3>"
                     + _strip(store, method, order[:count], results["images"]) + "<h3>Least often</h3>"
                     + _strip(store, method, order[::-1][:count], results["images"]))
    names = list(results["methods"])
    images = table(("picture", *(f"{name}: fooled of trials, 95 %" for name in names)), [
        (image, *(f"{row[name]['fooled']} of {row[name]['trials']}, {_interval(row[name]['wilson_95'])}"
                  if name in row else "–" for name in names)) for image, row in results["images"].items()])
    facts = [(key.replace("_", " "), f"{len(value)}, from {value[0]} to {value[-1]}" if key == "images" else
              ", ".join(map(str, value)) if isinstance(value, list) else value) for key, value in protocol.items()]
    viewed = answers["viewed_ms"]
    counts = (
        f"Raters: {raters['begun']} began, {raters['finished']} finished; {raters['left_out']} did not and are left "
        f"out, with {answers['left_out']} answers. Answers counted: {answers['counted']}. The left picture was chosen "
        f"in {_percent(answers['left_chosen'])} % of them. Pictures were on the screen for "
        f"{viewed['least'] / 1000:.2f} to {viewed['most'] / 1000:.2f} s, median {viewed['median'] / 1000:.2f} s; "
        f"{answers['handed_out_again']} of the pairs were handed out more than once (a reload, a second tab, a "
        f"repeated request). Answered by "
        + ", ".join(f"{means} {n}" for means, n in sorted(answers["means"].items()))
        + "; screen pixels for a pixel: " + ", ".join(f"{s} in {n}" for s, n in answers["scale"].items()) + ".")
    template = importlib.resources.files("cdm.evals.study") / "pages" / "report.html"
    return string.Template(template.read_text(encoding="utf-8")).substitute(
        question=escape(protocol["question"]), figure=figure(results), methods=methods, counts=escape(counts),
        shown="".join(shown), images=images, protocol=table(("protocol", ""), facts))


def write_report(store, out):
    """Write the report on a Store into the folder `out`; returns it."""
    report, out = summarize(store), pathlib.Path(out)
    write_json(out / "report.json", report)
    replace(out / "fool_rates.svg", lambda p: p.write_text(figure(report["results"]), encoding="utf-8"))
    replace(out / "report.html", lambda p: p.write_text(page(store, report), encoding="utf-8"))
    return report

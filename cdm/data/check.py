"""`cdm data check`: every picture of a source read, and what is odd about it, with what training does about it."""

import collections
import posixpath

from tqdm import tqdm

from cdm.data.decode import oddities, reason
from cdm.data.squares import Misfit, fit
from cdm.data.threads import in_order

SHOWN = 5  # names of a kind in the summary


def check(source, size=None):
    """Read every picture: {"pictures": count, "classes": {name: count}, "files": {name: {kind: what is done}} of
    the odd ones, "others": names of files that are not in the set}. `size`: also list pictures that are smaller than
    it, in pixels of the short side. Of pairs, what is wrong with the low-res picture is listed with the other."""
    def look(i):
        try:
            image = source.read(i)
            found = oddities(source.encoded(i)) if hasattr(source, "encoded") else {}
        except Exception as e:  # a decoder given a broken file may raise anything
            return {"corrupt": f"left out, or replaced in training ({reason(e)})"}, int(source.labels[i])
        if size and min(image.shape[:2]) < size:
            found["tiny"] = f"enlarged from {image.shape[1]}x{image.shape[0]}"
        if hasattr(source, "partner"):
            found |= _partner(source, i, image)
        return found, int(source.labels[i])

    looked = list(tqdm(in_order(look, len(source)), total=len(source), unit="img", disable=None))
    counts = collections.Counter(label for _, label in looked)
    return {
        "pictures": len(source),
        "classes": {name: counts[label] for label, name in enumerate(source.classes)},
        "files": {source.names[i]: kinds for i, (kinds, _) in enumerate(looked) if kinds},
        "others": getattr(source, "others", [])}


def _partner(source, i, image):
    """{kind: what is done} of the low-res picture of record i."""
    try:
        fit(source.names[i], image.shape, source.partner(i).shape)
    except Misfit as e:
        return {"without fit": f"training stops at it ({e})"}
    except Exception as e:
        return {"without low-res": f"left out, or replaced in training ({reason(e)})"}
    return {}


def summary(report):
    """The report in a few lines."""
    classes = report["classes"].values()
    lines = [f"{report['pictures']} pictures" + (f" of {len(classes)} classes, {min(classes)} to {max(classes)} each"
                                                 if classes else " without labels")]
    kinds = collections.defaultdict(dict)
    for name, found in report["files"].items():
        for kind, remedy in found.items():
            kinds[kind][name] = remedy
    for kind, files in sorted(kinds.items(), key=lambda item: -len(item[1])):
        lines.append(f"{len(files)} {kind}:")
        lines += [f"    {name}: {remedy}" for name, remedy in list(files.items())[:SHOWN]]
        if len(files) > SHOWN:
            lines.append(f"    and {len(files) - SHOWN} more")
    if not kinds:
        lines.append("none of them corrupt or odd")
    if others := collections.Counter(posixpath.splitext(name)[1] or "no ending" for name in report["others"]):
        lines.append("not in the set: " + ", ".join(f"{n} files with {end}" for end, n in others.most_common(SHOWN)))
    return "\n".join(lines)

"""Build the Fluent Emoji data set archive: about 3,400 RGBA pictures with class labels and a fixed held-out split.

    python -m experiments.fluent_emoji.build [--out cdm/data/fluent_emoji.zip]

Sources, fetched with `npm pack` at pinned versions and checked against pinned SHA-256 sums:

* @lobehub/fluent-emoji-3d, the pictures: WebP renderings of Microsoft's Fluent Emoji.  MIT licence.
* emojibase-data, the labels: the Unicode emoji list with groups, subgroups, CLDR names and the skin-tone variants of
  each base emoji.  MIT licence; the data in it comes from the Unicode Consortium (Unicode License v3).

The archive holds LICENSE, index.json and images/NAME.webp with the bytes of the package.  Its classes are the Unicode
emoji groups; "Component" (tone swatches, hair, regional letters) is none of them, as the package has no such pictures.
All skin-tone variants of a base emoji lie on one side of the split.  A rebuild gives the same bytes.
"""

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from PIL import Image

PICTURES = ("@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58")
LABELS = ("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")

TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
HELDOUT_SHARE = 0.1
# A group this large must have this many held-out base emoji, or a measurement on it means nothing.
MIN_BASES, MIN_HELDOUT = 10, 3

LICENSE = """\
The pictures (images/) are Microsoft's Fluent Emoji, under the MIT License:

    Copyright (c) Microsoft Corporation.

They were taken from the npm package {pictures}, which says of itself
"Copyright (c) 2023 LobeHub. This project is MIT licensed." and has no licence file of its own:

    Copyright (c) 2023 LobeHub

The names, groups and subgroups in index.json were taken from the npm package {labels},
under the MIT License; it derives them from the Unicode emoji data and CLDR,
Copyright (c) Unicode, Inc., under the Unicode License v3 (https://www.unicode.org/license.txt):

    Copyright (c) 2017-2019 Miles Johnson

The text of the MIT License, the same for all three:

    MIT License

    Permission is hereby granted, free of charge, to any person obtaining a copy
    of this software and associated documentation files (the "Software"), to deal
    in the Software without restriction, including without limitation the rights
    to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
    copies of the Software, and to permit persons to whom the Software is
    furnished to do so, subject to the following conditions:

    The above copyright notice and this permission notice shall be included in all
    copies or substantial portions of the Software.

    THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
    IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
    FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
    AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
    LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
    OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
    SOFTWARE.
"""


class BuildError(Exception):
    """A failure that one line explains."""


def fetch(package, folder):
    """Return the files of a pinned npm package as {path: bytes}, its leading `package/` removed."""
    name, version, sha256 = package
    try:
        done = subprocess.run(["npm", "pack", "--silent", "--pack-destination", str(folder), f"{name}@{version}"],
                              capture_output=True, text=True)
    except FileNotFoundError:
        raise BuildError("npm is not installed") from None
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise BuildError(f"npm pack {name}@{version} failed: {' '.join(reason)}")
    data = (folder / done.stdout.split()[-1]).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise BuildError(f"{name}@{version} has SHA-256 {found}, not {sha256}")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name.removeprefix("package/"): tar.extractfile(m).read() for m in tar if m.isfile()}


def emoji_key(name):
    """Return the form of a code point sequence under which the two sources agree.

    They differ in case, in zero padding, in where U+FE0F stands (it chooses the picture form and says nothing about
    which emoji it is), and in that the file names join tag characters with `_` and lack the closing U+E007F.
    """
    points = [p.lstrip("0") for p in name.lower().replace("_", "-").split("-")]
    points = [p for p in points if p not in ("fe0f", "e007f")]
    return "-".join(points)


def read_labels(files):
    """Return the class names in Unicode order and {emoji key: label}."""
    meta = json.loads(files["meta/groups.json"])
    messages = json.loads(files["en/messages.json"])["groups"]
    # The messages carry Unicode's group names in lower case; Unicode capitalises each word.
    titles = {m["key"]: m["message"].title() for m in messages}
    groups = {int(number): titles[key] for number, key in meta["groups"].items() if key != "component"}
    labels = {}
    for base in json.loads(files["en/data.json"]):
        if base.get("group") not in groups:
            continue
        for emoji in [base, *base.get("skins", ())]:
            labels[emoji_key(emoji["hexcode"])] = {
                "codepoints": emoji["hexcode"],
                "name": emoji["label"],
                "group": groups[base["group"]],
                "subgroup": meta["subgroups"][str(base["subgroup"])],
                # The parent in the data, not the sequence less its tones: two women of different tones are a sequence
                # around a handshake, and their base is the single code point 1f46d.
                "emoji": emoji_key(base["hexcode"]),
            }
    return [groups[number] for number in sorted(groups)], labels


def is_heldout(emoji):
    """Decide from the base emoji alone, so that no other picture coming or going moves it across the split."""
    return int.from_bytes(hashlib.sha256(emoji.encode()).digest(), "big") < HELDOUT_SHARE * 2**256


def describe(file, labels):
    """Return the index entry of a picture, or None when the Unicode data does not know it."""
    key = emoji_key(Path(file).stem)
    if key in labels:
        label = labels[key]
    else:
        # A sequence outside Unicode's list of recommended ones is still the same thing in another tone.
        base = labels.get("-".join(p for p in key.split("-") if p not in TONES))
        if base is None:
            return None
        label = base | {"codepoints": key.upper()}
    return {"file": file, **label, "split": "heldout" if is_heldout(label["emoji"]) else "train"}


def build():
    """Return the index and {archive path: bytes} of the pictures it tells of."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = fetch(PICTURES, Path(folder))
        groups, labels = read_labels(fetch(LABELS, Path(folder)))
    images, skipped, unclassified, members = [], [], [], {}
    for path, data in sorted(pictures.items()):
        if not path.endswith(".webp"):
            continue
        file = f"images/{Path(path).name}"
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except (OSError, ValueError) as error:
            # Not the error's own text, which holds an address in memory and would differ from build to build.
            skipped.append({"file": file, "reason": f"does not open ({type(error).__name__})"})
            continue
        members[file] = data
        entry = describe(file, labels)
        if entry is None:
            unclassified.append({"file": file, "reason": "not in the Unicode emoji data"})
        else:
            images.append(entry)
    present = {entry["group"] for entry in images}
    index = {
        "schema_version": 1,
        "source": {
            "pictures": {"package": PICTURES[0], "version": PICTURES[1], "sha256": PICTURES[2], "licence": "MIT",
                         "copyright": ["Microsoft Corporation", "LobeHub"]},
            "labels": {"package": LABELS[0], "version": LABELS[1], "sha256": LABELS[2], "licence": "MIT",
                       "copyright": ["Miles Johnson", "Unicode, Inc. (Unicode License v3)"]},
        },
        "classes": [group for group in groups if group in present],
        "images": images,
        "skipped": skipped,
        "unclassified": unclassified,
    }
    return index, members


def bases(images):
    """Count the base emoji of each group."""
    return Counter(group for group, _ in {(entry["group"], entry["emoji"]) for entry in images})


def check(index):
    """Refuse an index whose held-out part is too small to measure with."""
    total, held = bases(index["images"]), bases(e for e in index["images"] if e["split"] == "heldout")
    for group in index["classes"]:
        if total[group] >= MIN_BASES and held[group] < MIN_HELDOUT:
            raise BuildError(f"{group}: {held[group]} of {total[group]} base emoji held out, fewer than {MIN_HELDOUT}")


def write(out, index, members):
    """Write the archive, the same bytes for the same content, and never a part of it under its own name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    license_text = LICENSE.format(pictures=f"{PICTURES[0]} {PICTURES[1]}", labels=f"{LABELS[0]} {LABELS[1]}")
    entries = {"LICENSE": license_text.encode(),
               "index.json": (json.dumps(index, ensure_ascii=False, indent=1) + "\n").encode(), **members}
    part = out.with_name(out.name + ".part")
    try:
        # Stored, as WebP is compressed already and a reader may then map the bytes.
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name, data in sorted(entries.items()):
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                # Both would otherwise follow the system that the build runs on.
                info.create_system, info.external_attr = 3, 0o100644 << 16
                archive.writestr(info, data)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def summary(index, out):
    """Return the table that the build prints."""
    images = index["images"]
    held = [entry for entry in images if entry["split"] == "heldout"]
    per_class = [Counter(e["group"] for e in images), bases(images), Counter(e["group"] for e in held), bases(held)]
    lines = [f"{'class':<20}{'images':>8}{'base':>8}{'held-out images':>18}{'held-out base':>16}"]
    for name, counts in [*((group, [c[group] for c in per_class]) for group in index["classes"]),
                         ("total", [c.total() for c in per_class])]:
        lines.append(f"{name:<20}{counts[0]:>8}{counts[1]:>8}{counts[2]:>18}{counts[3]:>16}")
    for kind in ("skipped", "unclassified"):
        lines.append(f"{kind}: {len(index[kind])}")
        lines += [f"  {entry['file']}: {entry['reason']}" for entry in index[kind]]
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    lines.append(f"{out}: {out.stat().st_size:,} bytes, SHA-256 {digest}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="Build the Fluent Emoji data set archive.")
    parser.add_argument("--out", type=Path, default=Path("cdm/data/fluent_emoji.zip"), help="where to write it")
    args = parser.parse_args()
    try:
        index, members = build()
        check(index)
        write(args.out, index, members)
    except (BuildError, OSError) as error:
        sys.exit(f"error: {error}")
    print(summary(index, args.out))


if __name__ == "__main__":
    main()

"""Restored pictures in a folder beside the real ones in another, paired by file name without its ending."""

from cdm.data.threads import in_order
from cdm.evals import folders, restoration, rows, sets
from cdm.images.resize import resize, to_float


def measure_pairs(images, reference, out, protocols=("rgb",), scale=None, distance=None):
    """The card of the pictures in the folder `images`; their rows go beside the card file `out`.

    With a `scale` the low-res pictures of consistency and colour drift are made of the reference. ValueError for a
    picture without a partner, another size than its partner's, or sides that the scale does not divide.
    """
    ours, theirs = folders.pictures(images, "images"), folders.pictures(reference, "reference")
    for name in sorted(ours.keys() ^ theirs.keys()):
        lacking, argument = (reference, "reference") if name in ours else (images, "images")
        raise ValueError(f"`{argument}` (={lacking}) must have a partner for every picture: {name} is missing, "
                         f"1 of {len(ours.keys() ^ theirs.keys())}")
    names = sorted(ours)

    def measure(part):
        found = []
        for name in names[part.start : part.stop]:
            image, real = folders.read(ours[name], "images"), folders.read(theirs[name], "reference")
            if image.shape != real.shape:
                raise ValueError(f"`images` (={images}) must have the sizes of the reference: {name} is "
                                 f"{_size(image)} there and {_size(real)} here")
            lowres = None
            if scale:
                height, width = real.shape[:2]
                if height % scale or width % scale:
                    raise ValueError(f"`scale` (={scale}) must divide the sides of every picture: {name} is "
                                     f"{_size(real)}")
                lowres = resize(to_float(real), (height // scale, width // scale))
            try:
                measured = restoration.measures(image, real, protocols, scale, lowres, distance)
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from e
            found.append({"name": name, "measures": measured})
        return found

    real = in_order(lambda i: folders.read(theirs[names[i]], "reference"), len(names))
    protocol = {**restoration.about(protocols, scale, distance), "reference": sets.about(real)}
    asked = {"protocol": protocol, "images": str(images), "files": sets.state([*ours.values(), *theirs.values()])}
    found = rows.collect(out, asked, len(names), 1, measure)
    results, infinite = restoration.results([row["measures"] for row in found])
    return {"kind": "restoration", "protocol": protocol, "results": results,
            "about": {"images": str(images), "reference": str(reference), "names": names, "infinite": infinite}}


def _size(image):
    return f"{image.shape[1]}x{image.shape[0]}"

"""What a study asks, and who sees what: the protocol and the assignment.

Two-alternative forced choice as in SR3 (Saharia et al., arXiv 2104.07636, section 4.2): a real picture and a method's
version of it side by side for `view_seconds`, then the question of QUESTIONS. SR3 had 50 subjects look at 50 of 100
pictures each, for every method; here one study may hold several methods, mixed within a rater.

The law of assignment. Counts are over the raters that have finished or may yet (see cdm.evals.study.store); what a law
leaves open is drawn at random from the seed and the rater's number.

- A rater sees a real picture once at most: seeing it again beside another method would tell which one is real.
- A rater gets the pictures seen least so far: views of any two pictures differ by one at most.
- Within a rater the numbers of trials of any two methods differ by one at most, and where that leaves a choice a
  picture goes to the method it was seen with least: views of a picture with any two methods differ by two at most,
  and hardly ever by two.
- Within a rater the real picture is on the left in half of the trials (an odd one goes to either side). Among them,
  sides go to where they are short: over all raters lefts less rights stay within 3 for a picture and method, and within
  4 for a picture.
- The order of a rater's trials is random.

One greedy step a rater keeps them. The bounds over raters are what simulation finds (the tests) where a rater has at
least as many trials as there are methods; raters who leave in the middle take theirs out of the counts, and those who
come after make up for it.
"""

import hashlib
import json
import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

QUESTIONS = {
    1: "Which of the two images is a better high quality version of the low resolution image in the middle?",
    2: "Which image would you guess is from a camera?",
}
PER_RATER = 50


class Trial(NamedTuple):
    """One pair that a rater is shown."""

    image: int
    method: int
    real_side: str


def protocol(folders, task=2, per_rater=None, view_seconds=3.0, seed=0):
    """The protocol of a study on cdm.evals.study.pictures.Folders, all but the digest of its pictures: a JSON object.
    `per_rater` pictures a rater (50, or all if they are fewer), each seen for `view_seconds`."""
    if task not in QUESTIONS:
        raise ValueError(f"`task` (={task}) must be 1 or 2")
    if task == 1 and folders.lowres is None:
        raise ValueError("`lowres` must be a folder of low-res pictures: task 1 shows them in the middle")
    if task == 2 and folders.lowres is not None:
        raise ValueError(f"`lowres` (={folders.lowres}) must be left out: task 2 does not show it")
    count = len(folders.names)
    per_rater = min(PER_RATER, count) if per_rater is None else per_rater
    if not 1 <= per_rater <= count:
        raise ValueError(f"`per_rater` (={per_rater}) must be 1 to {count}, the number of real pictures: "
                         "a rater sees each once at most")
    if not (math.isfinite(view_seconds) and 0 < view_seconds <= 600):
        raise ValueError(f"`view_seconds` (={view_seconds}) must be above 0 and at most 600")
    if seed < 0:
        raise ValueError(f"`seed` (={seed}) must be at least 0")
    return {
        "schema_version": 1,
        "task": task,
        "question": QUESTIONS[task],
        "view_seconds": float(view_seconds),
        "per_rater": per_rater,
        "seed": seed,
        "methods": list(folders.methods),
        "images": folders.names,
        "size": list(folders.size),
        "lowres": folders.enlargement,
        "shown": "raw sRGB pixels on neutral grey, each as k x k pixels of the screen, k whole; hidden when the time "
                 "is over, answered after that",
        "assignment": "balanced by counts: pictures, methods, sides (cdm.evals.study.design)",
    }


def fingerprint(protocol):
    """SHA-256 of a protocol."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()


def assign(views, lefts, per_rater, random):
    """The trials of the next rater, a list of Trial in the order to show them.

    views: [images, methods] int, how often each pair was assigned so far; lefts: the same, with the real picture on the
    left; random: a NumPy Generator.
    """
    images, methods = views.shape
    # As many slots a method as its share; what does not divide goes to the methods seen least.
    slots = np.resize(np.argsort(views.sum(0) + random.random(methods)), per_rater)
    # Pictures seen least come before anything else, then pairs seen least, then chance.
    most = 1 + per_rater * (1 + views.max())
    cost = most * views.sum(1, keepdims=True) + views + random.random((images, methods)) / per_rater
    image, slot = linear_sum_assignment(cost[:, slots])
    method = slots[slot]

    lean = 2 * lefts - views  # lefts less rights
    lean = 2 * lean[image, method] + lean.sum(1)[image] + 0.1 * (random.random(per_rater) - 0.5)
    order = np.argsort(lean)
    half = per_rater // 2
    if per_rater % 2 and lean[order[half]] < 0:
        half += 1
    left = np.zeros(per_rater, bool)
    left[order[:half]] = True
    return [Trial(int(image[i]), int(method[i]), "left" if left[i] else "right") for i in random.permutation(per_rater)]

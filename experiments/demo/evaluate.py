"""Measure a demo cascade on the embedded set: one command, one JSON, one table.

    python -m experiments.demo.evaluate [--cascade FOLDER] [--per-class 16] --out experiments/demo/evaluation.json

`--parts` measures some of these anew, and leaves the others in --out as they are:

1. Base stage: held-out v-loss in ten bins of t beside the optimal linear denoiser (Wiener) with the training images'
   mean and covariance, D(x_t) = mu + a S (a^2 S + s^2 I)^-1 (x_t - a mu), on the same noisy images.
2. Each SR stage: PSNR of the x0 it predicts from pure noise, given held-out real low-res input at augmentation level 0,
   beside bicubic's. uint8 RGB, peak 255, mean over images.
3. The chain: `per-class` samples of each class with seed 0 and the cascade's own settings, none left out. Share
   whose class a linear classifier (ridge regression on 16x16 pixels and orientation histograms, fitted to the
   training images) recognises, beside real held-out images and chance; power above half the Nyquist frequency of
   the luminance at the last size over that of real training images, class by class, beside bicubic enlargements.
"""

import argparse
import json
import pathlib

import jax
import numpy as np

import cdm
from cdm.cascade import image_keys, shipped
from cdm.data.reading import read_square
from cdm.data.sources import FluentEmoji
from cdm.diffusion import process
from cdm.evals.restoration import psnr
from cdm.images import augment
from cdm.images.files import write_json
from cdm.images.resize import resize, to_float, to_uint8

DRAWS = 4  # noisy versions of each held-out image in a bin
BINS = 10
PARTS = ("base", "super_resolution", "chain")


def load(split, size):
    """(images [N, size, size, 3] uint8, labels [N]) of a split of the embedded set."""
    source = FluentEmoji(split)
    return np.stack([read_square(source, i, size) for i in range(len(source))]), source.labels


def in_batches(function, *arrays, size=32):
    """Apply a jitted function over the first axis, the last batch padded."""
    parts = []
    for begin in range(0, len(arrays[0]), size):
        index = np.minimum(np.arange(begin, begin + size), len(arrays[0]) - 1)
        parts.append(np.asarray(function(*(a[index] for a in arrays)))[: len(arrays[0]) - begin])
    return np.concatenate(parts)


def wiener_table(stage):
    """Section 1: rows of t range, network with class, without, and Wiener, v-MSE each."""
    train = to_float(load("train", stage.size)[0]).reshape(-1, stage.size**2 * 3).astype(np.float64)
    mean = train.mean(0)
    power, basis = np.linalg.eigh(np.cov(train.T))
    images, labels = load("heldout", stage.size)
    x0 = np.repeat(to_float(images), DRAWS, axis=0)
    labels = np.repeat(labels, DRAWS)
    rng = np.random.default_rng(0)
    network = jax.jit(lambda x, logsnr, y: process.target("v", *stage.predict(stage.params, x, logsnr, y)[:2], logsnr))
    rows = []
    for b in range(BINS):
        t = (b + rng.random(len(x0))) / BINS
        logsnr = stage.schedule.logsnr(t)
        eps = rng.standard_normal(x0.shape).astype(np.float32)
        a, s = (np.sqrt(1 / (1 + np.exp(sign * logsnr)))[:, None] for sign in (-1, 1))
        x_t = (a * x0.reshape(len(x0), -1) + s * eps.reshape(len(x0), -1)).astype(np.float32)
        projected = (x_t - a * mean) @ basis
        linear = mean + (projected * (a * power / (a**2 * power + s**2))) @ basis.T
        # v-MSE = (SNR + 1) x0-MSE = x0-MSE / sigma^2
        wiener = np.mean((linear - x0.reshape(len(x0), -1)) ** 2 / s**2)
        x_t, logsnr = x_t.reshape(x0.shape), logsnr.astype(np.float32)
        target = np.asarray(process.target("v", x0, eps, logsnr))
        losses = []
        for given in (labels, np.full_like(labels, stage.null_label)):
            losses.append(float(np.mean((in_batches(network, x_t, logsnr, given) - target) ** 2)))
        rows.append({"t": [b / BINS, (b + 1) / BINS], "network": losses[0], "network_without_class": losses[1],
                     "wiener": float(wiener), "ratio": losses[0] / float(wiener)})
    return rows


def sr_table(stage):
    """Section 2 for one stage."""
    images, labels = load("heldout", stage.size)
    lowres = np.asarray(resize(to_float(images), stage.lowres_size))
    keys = image_keys(0, stage.name, labels.astype(np.uint32), np.arange(len(labels), dtype=np.uint32))
    noise = np.asarray(augment.normal(keys, images.shape[1:]))

    @jax.jit
    def predict(noise, labels, lowres):
        level = np.zeros(len(labels), np.float32)
        denoise = stage.denoiser(stage.params, labels, lowres, stage.augment_schedule.logsnr(jax.numpy.asarray(level)))
        return denoise(noise, jax.numpy.full(len(labels), np.float32(stage.schedule.logsnr(1.0)))).x0

    x0 = to_uint8(in_batches(predict, noise, labels, lowres, size=8))
    bicubic = to_uint8(np.asarray(resize(lowres, stage.size)))
    row = {"stage": stage.name, **{name: float(np.mean([psnr(*pair) for pair in zip(made, images)]))
                                   for name, made in (("psnr", x0), ("psnr_bicubic", bicubic))}}
    return {**row, "gain": row["psnr"] - row["psnr_bicubic"]}


def features(images):
    """Simple features [N, D] of uint8 images: 16x16 pixels, and 8 orientations of gradient in 4x4 cells at 32x32."""
    small = np.stack([np.asarray(resize(to_float(image), 32, "area")) for image in images])
    pixels = np.asarray(resize(small, 16, "area")).reshape(len(images), -1)
    grey = small.mean(-1)
    dy, dx = np.gradient(grey, axis=(1, 2))
    orientation = ((np.arctan2(dy, dx) / np.pi % 1) * 8).astype(int) % 8
    strength = np.hypot(dy, dx)
    cells = [(strength * (orientation == o)).reshape(-1, 4, 8, 4, 8).sum((2, 4)).reshape(len(images), -1)
             for o in range(8)]
    return np.concatenate([pixels, np.sqrt(np.concatenate(cells, 1))], 1)


def fit_classifier(x, labels, classes, ridge=30.0):
    """predict(x) of a ridge regression to one-hot labels, classes weighted equally."""
    mean, std = x.mean(0), x.std(0) + 1e-6

    def design(x):
        return np.concatenate([(x - mean) / std, np.ones([len(x), 1])], 1)

    weight = (1 / np.bincount(labels, minlength=classes))[labels] * len(labels) / classes
    a = design(x)
    weighted = (a * weight[:, None]).T
    w = np.linalg.solve(weighted @ a + ridge * np.eye(a.shape[1]), weighted @ np.eye(classes)[labels])
    return lambda x: np.argmax(design(x) @ w, 1)


def balanced_accuracy(predicted, labels, classes):
    return float(np.mean([np.mean(predicted[labels == c] == c) for c in range(classes)]))


def high_frequency_energy(images, labels, classes):
    """Mean power of the luminance above 0.25 cycles per pixel, averaged over classes."""
    luma = to_float(images) @ np.array([0.299, 0.587, 0.114])
    power = np.abs(np.fft.fft2(luma)) ** 2 / luma[0].size
    f = np.fft.fftfreq(luma.shape[1])
    band = np.hypot(f[:, None], f[None]) > 0.25
    energy = power[:, band].mean(1)
    return float(np.mean([energy[labels == c].mean() for c in range(classes)]))


def chain_table(cascade, per_class):
    """Section 3."""
    size, classes = cascade.stages[-1].size, len(cascade.classes)
    labels = np.tile(np.arange(classes), per_class)
    samples = cascade.sample(labels, seed=0)
    train, train_labels = load("train", size)
    held, held_labels = load("heldout", size)
    classify = fit_classifier(features(train), train_labels, classes)
    real = high_frequency_energy(train, train_labels, classes)
    half = cascade.stages[-1].lowres_size
    bicubic = to_uint8(np.stack([np.asarray(resize(resize(to_float(i), half), size)) for i in held]))
    return {
        "samples": len(samples), "seed": 0,
        "settings": {s.name: x._asdict() for s, x in zip(cascade.stages, cascade.settings())},
        "class_accuracy": {"samples": balanced_accuracy(classify(features(samples)), labels, classes),
                           "heldout_real": balanced_accuracy(classify(features(held)), held_labels, classes),
                           "chance": 1 / classes},
        "high_frequency_energy_over_real": {
            "samples": high_frequency_energy(samples, labels, classes) / real,
            "heldout_real": high_frequency_energy(held, held_labels, classes) / real,
            "bicubic": high_frequency_energy(bicubic, held_labels, classes) / real},
    }


def markdown(result):
    """The tables as Markdown."""
    lines = ["| t | network | without class | Wiener | ratio |", "|---|---|---|---|---|"]
    lines += [f"| {r['t'][0]:.1f}–{r['t'][1]:.1f} | {r['network']:.4f} | {r['network_without_class']:.4f} | "
              f"{r['wiener']:.4f} | {r['ratio']:.2f} |" for r in result["base"]]
    lines += ["", "| stage | PSNR | bicubic | gain |", "|---|---|---|---|"]
    lines += [f"| {r['stage']} | {r['psnr']:.2f} dB | {r['psnr_bicubic']:.2f} dB | {r['gain']:+.2f} dB |"
              for r in result["super_resolution"]]
    a, h = result["chain"]["class_accuracy"], result["chain"]["high_frequency_energy_over_real"]
    lines += ["", "| | samples | held-out real | |", "|---|---|---|---|",
              f"| class recognised | {a['samples']:.1%} | {a['heldout_real']:.1%} | chance {a['chance']:.1%} |",
              f"| high-frequency energy over real | {h['samples']:.2f} | {h['heldout_real']:.2f} | "
              f"bicubic {h['bicubic']:.2f} |"]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cascade", type=pathlib.Path, default=shipped())
    parser.add_argument("--per-class", type=int, default=16)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    cascade = cdm.load_cascade(args.cascade)
    told = {"stages": {s.name: {"sha256": s.sha256, **s.facts} for s in cascade.stages}, "jax": jax.__version__}
    found = {}
    if set(args.parts) != set(PARTS):
        if not args.out.exists():
            parser.error(f"--parts: --out {args.out} must exist, with the other parts in it")
        found = json.loads(args.out.read_text())
        if found["stages"] != told["stages"]:
            parser.error(f"--parts: --out {args.out} holds what other stages measured")
    if "base" in args.parts:
        found["base"] = wiener_table(cascade.stages[0])
    if "super_resolution" in args.parts:
        found["super_resolution"] = [sr_table(stage) for stage in cascade.stages[1:]]
    if "chain" in args.parts:
        found["chain"] = chain_table(cascade, args.per_class)
    result = {**told, **{part: found[part] for part in PARTS}}
    write_json(args.out, result)
    print(markdown(result))


if __name__ == "__main__":
    main()

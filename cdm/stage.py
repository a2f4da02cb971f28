"""A stage: the one joint of mathematics and network.

Training (Ho et al. 2021, alg. 1; for a base stage without the low-res lines): for each example on its own, draw t,
the augmentation level, the blur and the noises from the example's key, and regress the target.

With `diffusion.loss = "regression"` a super-resolution network is a regression of the same size, SR3's own baseline
(Saharia et al. 2021, sec. 4): it is shown zeros instead of x_t and one noise level, and learns x0 in mean square. As a
denoiser its x0 does not depend on x_t, so any sampler gives that x0, whatever its steps and noise.

A stage folder is stage.json (schema_version, config, classes, training facts) beside params.safetensors: no pickle, no
code. Whoever has the folder needs nothing else.
"""

import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cdm import config as configs
from cdm import nn
from cdm.diffusion import guidance as guiding
from cdm.diffusion import process, schedules, vlb, weights
from cdm.images import augment
from cdm.images.degrade import degrade
from cdm.images.files import new_folder, reading, sha256, write_json
from cdm.images.resize import resize, to_float

SCHEMA_VERSION = 1
BINS = 10  # of the loss by noise level: equal parts of t
UPSAMPLING_GAIN = 0.65  # variance of unit white noise after bicubic upsampling, at any factor


def _dtype(name):
    """"auto" is bfloat16 on accelerators, whose matrix units are made for it, and float32 on the CPU."""
    if name != "auto":
        return name
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


class Stage:
    """A stage of a cascade: `config`, `classes` (names; none without `data.labels`), `params` (None until initialised
    or loaded), `facts` (of its training). A base stage generates at `size`; a super-resolution stage has `lowres_size`
    too, else None."""

    def __init__(self, config, classes, params=None, facts=None):
        configs.validate(config)
        self.config, self.params, self.facts = config, params, facts or {}
        self.classes = tuple(classes) if config.data.labels else ()
        if len({slug(name) for name in self.classes} - {""}) < len(self.classes):  # they are told apart by it
            raise ValueError(f"`classes` (={', '.join(self.classes)}) must differ in letters and digits")
        if config.data.balance and not self.classes:
            raise ValueError("`data.balance` (=True) must be False for pictures without labels")
        self.sha256 = None  # of the parameters' file, once saved or loaded
        self.dtype = _dtype(config.dtype)  # of the computations
        self.name, self.size = config.name, config.size
        self.lowres_size = config.lowres_size if "augment" in config else None
        # Of the low-res pictures that it learns from as they are given; None where it makes its own.
        self.partner_size = self.lowres_size if self.lowres_size and config.degrade.kind == "pairs" else None
        self.regression = config.diffusion.loss == "regression"
        self.learned_variance = config.diffusion.variance == "learned"
        self.bounded = self.learned_variance and not config.train.teacher  # whether the loss has the bound in it
        self.schedule = schedules.make(**config.diffusion.schedule)
        self.augment_schedule = schedules.make(**config.augment.schedule) if self.lowres_size else None
        self.network = nn.build(config.model, self.size, self.lowres_size, len(self.classes), self.dtype,
                                6 if self.learned_variance else 3,
                                self.schedule.entry if config.model.level == "timestep" else None)

    @property
    def parameters(self):
        """How many numbers `params` are, or will be."""
        params = jax.eval_shape(self.init) if self.params is None else self.params
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    @property
    def null_label(self):
        """The label that means "no class"."""
        return len(self.classes)

    def init(self, seed=0):
        """Fresh parameters: a nested dict of float32 arrays."""
        return self.network.init(jax.random.key(seed, impl="threefry2x32"))

    def inherit(self, parent, seed=0):
        """Parameters to go on training with from those of `parent`, a Stage of the same network. The embedding of a
        class goes by its name; a class that the parent did not know starts fresh, as `init(seed)` has it."""
        old, new = flatten(parent.params), flatten(jax.eval_shape(self.init))
        table = "label_emb/embedding"
        for name in sorted(old.keys() | new.keys()):
            shapes = [tree[name].shape if name in tree else "missing" for tree in (old, new)]
            if name == table and name in old and name in new and shapes[0][1:] == shapes[1][1:]:
                known = [slug(c) for c in parent.classes] + [None]  # the last row is the null class's
                rows = {i: known.index(c) for i, c in enumerate([*map(slug, self.classes), None]) if c in known}
                new[name] = np.array(jax.jit(lambda: flatten(self.init(seed))[table])())  # the rest is not computed
                new[name][list(rows)] = old[name][list(rows.values())]
            elif shapes[0] != shapes[1]:
                raise ValueError(f"`train.init_from` (={self.config.train.init_from}) must be a stage of the same "
                                 f"network: {name} is {shapes[0]} there and {shapes[1]} here")
            else:
                new[name] = np.asarray(old[name], np.float32)
        return unflatten(new)

    def batch(self, count):
        """The shapes of a batch of so many examples by name, as `loss` takes them."""
        shapes = {"image": ((self.size, self.size, 3), jnp.uint8), "label": ((), jnp.int32), "index": ((), jnp.uint32)}
        if self.partner_size:
            shapes["lowres"] = (self.lowres_size, self.lowres_size, 3), jnp.uint8
        return {name: jax.ShapeDtypeStruct((count, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    def loss(self, params, image, label, index, seed, lesson=None, lowres=None):
        """Training loss of a batch: (mean, sums), sums a dict of "bin_sums" and "bin_counts" [BINS], of the simple loss
        by bin of t, and, where the variance is learned, "bits", an estimate of the bound in bits a dimension. What a
        student is taught instead of the pictures is its `lesson` (cdm.training.distillation).

        image: [B, H, W, 3] uint8; label: [B]; index: [B] uint32, the examples' places in the order of training; lowres:
        [B, h, w, 3] uint8, of a stage of pairs, None of others, which make it of the image.
        Example n draws from fold(seed, n), whatever batch it comes in; its t is the n-th term of a golden-ratio
        sequence, uniform and evenly spread over every run of examples.
        """
        config = self.config
        root = jax.random.key(seed, impl="threefry2x32")
        keys = jax.vmap(lambda n: jax.random.split(jax.random.fold_in(root, n), 6))(index)
        crop_keys, level_keys, noise_keys, blur_keys, eps_keys, drop_keys = (keys[:, i] for i in range(6))

        t = (index * np.uint32(2654435769)).astype(jnp.float32) * 2.0**-32  # 2^32 / golden ratio
        logsnr, entry = lesson.level(t) if lesson else self.level(t, eps_keys)
        degrade_keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(root, n), 6))(index)
        (x0, lowres), aug_logsnr = self.pair(image, crop_keys, degrade_keys, lowres), None
        if self.lowres_size:
            a = config.augment
            lowres = augment.blur(lowres, blur_keys, a.blur_probability, a.blur_sigma)
            level = a.max_level * jax.vmap(jax.random.uniform)(level_keys)
            lowres, aug_logsnr = augment.noise(lowres, level, self.augment_schedule, noise_keys)
        dropped = jax.vmap(jax.random.uniform)(drop_keys) < config.train.class_dropout
        label = jnp.where(dropped, self.null_label, label)
        eps = augment.normal(eps_keys, x0.shape[1:])
        # One dropout mask a batch: the network draws for all its examples at once.
        dropout = jax.random.fold_in(jax.random.fold_in(root, index[0]), 6) if config.model.dropout else None
        x_t, d = process.q_sample(x0, logsnr, eps), config.diffusion
        if lesson:
            x0 = lesson.x0(x_t, entry, label, lowres, aug_logsnr)
            alpha, sigma = process.alpha_sigma(logsnr, x0)
            eps = (x_t - alpha * x0) / sigma
        seen = self.standardise(x_t, logsnr, lowres, aug_logsnr)
        output = self.network.apply(params, *seen[:2], label, lowres, aug_logsnr, dropout)
        simple = self._simple_loss(output, x0, eps, *seen)
        # By comparison: a TPU has a unit of its own for a scatter, to which it would go and wait.
        bins = jnp.minimum((t * BINS).astype(jnp.int32), BINS - 1)[:, None] == jnp.arange(BINS)
        sums = {"bin_sums": jnp.sum(jnp.where(bins, simple[:, None], 0), 0),
                "bin_counts": jnp.sum(bins, 0, jnp.float32)}
        rate = schedules.rate(self.schedule, t) if d.weight == "sigmoid" else 1.0
        loss = jnp.mean(simple * weights.weight(d.weight, d.target, seen[1], rate, bias=d.weight_bias))
        if self.bounded:  # eq. 5 of vlb
            table = self.schedule.table
            prediction = self._prediction(output, x_t, logsnr, *seen)
            bound = vlb.term(table, entry, x0, x_t, prediction._replace(x0=jax.lax.stop_gradient(prediction.x0)))
            bound = len(table) * jnp.mean(bound)
            loss, sums["bits"] = loss + vlb.HYBRID * bound, bound + jnp.mean(vlb.prior(table, x0))
        return loss, sums

    def level(self, t, keys):
        """(logSNR [B], the table's entry [B] or None) of t [B] in [0, 1), by `diffusion.levels`: that of t itself; that
        of the table's entry at t; or SR3's, alpha^2 drawn uniformly between that entry and the cleaner one next to it
        (Saharia et al. 2021, sec. 2.4), by a fold of the examples' keys."""
        kind = self.config.diffusion.levels
        if kind == "continuous":
            return self.schedule.logsnr(t), None
        table = self.schedule.table
        entry = jnp.minimum((t * len(table)).astype(jnp.int32), len(table) - 1)
        if kind == "table":
            return jnp.asarray(table, jnp.float32)[entry], entry
        share = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(keys)  # in [0, 1)

        def between(cleaner, own):  # alpha^2 and sigma^2 each from its own table: a difference from 1 has no digits left
            cleaner, own = jnp.asarray(cleaner, jnp.float32)[entry], jnp.asarray(own, jnp.float32)[entry]
            return own + share * (cleaner - own)

        alpha2, sigma2 = (1 / (1 + np.exp(sign * table)) for sign in (-1, 1))
        logsnr = (jnp.log(between(np.append(1, alpha2[:-1]), alpha2))
                  - jnp.log(between(np.append(0, sigma2[:-1]), sigma2)))
        return logsnr, None

    def regress(self, params, x0, logsnr, eps, label, lowres=None, aug_logsnr=None):
        """The simple loss [B] of what the network makes of x0 [B, H, W, 3] under the noise eps, without weights."""
        seen = self.standardise(process.q_sample(x0, logsnr, eps), logsnr, lowres, aug_logsnr)
        return self._simple_loss(self.network.apply(params, *seen[:2], label, lowres, aug_logsnr), x0, eps, *seen)

    def _simple_loss(self, output, x0, eps, y_t, logsnr_y, mean, std):
        d = self.config.diffusion
        return process.simple_loss(d.target, output[..., :3], (x0 - mean) / std, eps, logsnr_y, d.norm)

    def _prediction(self, output, x_t, logsnr, y_t, logsnr_y, mean, std):
        """What the network's output for the standardised y_t says of x_t."""
        fraction = (output[..., 3:] + 1) / 2 if self.learned_variance else None
        y0, eps, _ = process.prediction(self.config.diffusion.target, output[..., :3], y_t, logsnr_y)
        if self.regression:  # the noise of an x_t that it was not shown
            return process.prediction("x0", mean + std * y0, x_t, logsnr)
        return process.Prediction(mean + std * y0, eps, fraction)

    def standardise(self, x_t, logsnr, lowres=None, aug_logsnr=None):
        """(y_t, logsnr_y, mean, std): what the network sees of x_t [B, H, W, 3], a regression nothing, and what tells
        x0 = mean + std y0.

        With `diffusion.residual` the mean is the upsampled low-res image (Li et al. 2021, SRDiff): z_s = alpha_s z_0 +
        sigma_s eps is first scaled by alpha_s, its Wiener gain for images of unit variance. Of `data_std`, the
        difference of clean pictures, it then falls short by sigma_s^2 z_0 and by the noise that upsampling passes on.
        """
        mean, std = 0.0, jnp.float32(self.config.diffusion.data_std)
        if self.lowres_size and self.config.diffusion.residual:
            alpha, sigma = process.alpha_sigma(aug_logsnr)
            mean = resize(alpha.reshape(-1, 1, 1, 1) * lowres, x_t.shape[1:3])
            std = jnp.sqrt(std**2 + UPSAMPLING_GAIN * sigma**2)
        y_t, logsnr_y = process.standardise(x_t, logsnr, mean, std)
        if self.regression:
            y_t, logsnr_y = jnp.zeros_like(y_t), jnp.full_like(logsnr_y, self.schedule.logsnr_min)
        return y_t, logsnr_y, mean, std.reshape(-1, 1, 1, 1)

    def pair(self, image, crop_keys=None, degrade_keys=None, lowres=None):
        """(x0, lowres or None) in [-1, 1] from uint8 images: the low-res image is the one given or made of the whole
        high-res one, by the stage's degradation or, without keys [B] for it, clean; and both are cropped alike, so that
        the resize sees no border that a whole picture has not."""
        x0 = to_float(image)
        if lowres is not None:
            lowres = to_float(lowres)
        elif self.lowres_size:
            lowres = (resize(x0, self.lowres_size) if degrade_keys is None else
                      degrade(x0, self.lowres_size, self.config.degrade, degrade_keys))
        crop = self.config.data.crop
        if crop and crop_keys is not None:
            scale = self.size // self.lowres_size if self.lowres_size else 1

            def cut(image, key, side, stride):
                corner = jax.random.randint(key, (2,), 0, (self.size - crop) // scale + 1) * stride
                return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (side, side, image.shape[-1]))

            x0 = jax.vmap(lambda i, k: cut(i, k, crop, scale))(x0, crop_keys)
            if lowres is not None:
                lowres = jax.vmap(lambda i, k: cut(i, k, crop // scale, 1))(lowres, crop_keys)
        return x0, lowres

    def predict(self, params, x_t, logsnr, labels, lowres=None, aug_logsnr=None):
        """The network's Prediction of x_t [B, H, W, 3] as it stands, without guidance or clipping; see `denoiser`."""
        seen = self.standardise(x_t, logsnr, lowres, aug_logsnr)
        output = self.network.apply(params, *seen[:2], labels, lowres, aug_logsnr)
        return self._prediction(output, x_t, logsnr, *seen)

    def denoiser(self, params, labels, lowres=None, aug_logsnr=None, guidance=None, guide=None, interval=None,
                 threshold="static"):
        """denoise(x_t, logsnr) -> Prediction, x0 brought into [-1, 1] by the static or dynamic `threshold`.

        labels: [B]; lowres: [B, h, w, 3], augmented already, with its aug_logsnr [B]; guidance: the weight w, or None
        for a program without it; guide: (Stage, its params) that it leads away from, None for the null class; interval:
        (low, high) logSNR outside which there is none.
        """
        params = nn.cast(params, self.dtype)

        def predict(labels, lowres, aug_logsnr):
            return lambda x, logsnr: self.predict(params, x, logsnr, labels, lowres, aug_logsnr)

        def twice(value):
            return None if value is None else jnp.concatenate([value, value])

        denoise = plain = predict(labels, lowres, aug_logsnr)
        if guidance is not None:
            if guide:
                weak = nn.cast(guide[1], guide[0].dtype)

                def weaker(x, logsnr):
                    return guide[0].predict(weak, x, logsnr, labels, lowres, aug_logsnr)

                denoise = guiding.autoguidance(plain, weaker, guidance)
            else:
                both = jnp.concatenate([labels, jnp.full_like(labels, self.null_label)])
                denoise = guiding.class_guidance(predict(both, twice(lowres), twice(aug_logsnr)), guidance)
            if interval is not None:
                denoise = guiding.limited(denoise, plain, interval)
        return (guiding.static_threshold if threshold == "static" else guiding.dynamic_threshold)(denoise)

    def label(self, which):
        """The label of a class by index or by name; case and punctuation do not matter ("food-drink"), and a text that
        is both is the name. A stage without classes has the one label 0."""
        names = [slug(name) for name in self.classes]
        text = str(which).strip()
        if isinstance(which, str) and slug(text) in names:
            return names.index(slug(text))
        if text.isdecimal() and int(text) < max(len(names), 1):
            return int(text)
        known = ", ".join(f"{i} {name}" for i, name in enumerate(self.classes)) or "0, as the stage has none"
        raise ValueError(f"`class` (={which}) must be a name or an index of: {known}")

    def save(self, folder, dtype=np.float32):
        """Write the stage folder, whole or not at all; `folder` must not exist yet."""
        with new_folder(folder) as partial:
            flat = {name: np.ascontiguousarray(value, dtype) for name, value in flatten(self.params).items()}
            save_file(flat, partial / "params.safetensors")
            self.sha256 = sha256(partial / "params.safetensors")
            write_json(partial / "stage.json", {
                "schema_version": SCHEMA_VERSION, "config": self.config.to_dict(), "classes": self.classes,
                "facts": self.facts, "sha256": self.sha256})
            # safetensors writes for its owner alone; what is installed must be readable by all.
            shutil.copymode(partial / "stage.json", partial / "params.safetensors")


def load_config(folder):
    """The config of a stage folder."""
    with reading(folder, "stage.json", "stage", SCHEMA_VERSION) as about:
        return configs.from_dict(about["config"])


def load_stage(folder):
    """The Stage in a stage folder, its parameters as float32 NumPy arrays."""
    path = pathlib.Path(folder) / "params.safetensors"
    with reading(folder, "stage.json", "stage", SCHEMA_VERSION) as about:
        stage = Stage(configs.from_dict(about["config"]), about["classes"], facts=about["facts"])
        stage.sha256 = about["sha256"]
        if sha256(path) != stage.sha256:
            raise ValueError(f"{path.name} has not the sha256 of its stage.json")
        try:
            flat = load_file(path)
        except SafetensorError as e:
            raise ValueError(f"{path.name}: {e}") from e
        wanted = {name: leaf.shape for name, leaf in flatten(jax.eval_shape(stage.init)).items()}
        found = {name: value.shape for name, value in flat.items()}
        if wanted != found:
            name = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
            raise ValueError(f"{name} is {found.get(name, 'missing')}, its config wants {wanted.get(name, 'none')}")
    stage.params = unflatten({name: value.astype(np.float32, copy=False) for name, value in flat.items()})
    return stage


def slug(name):
    """A class name as it is spelt in file names: "Food & Drink" is food-drink."""
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-")


def flatten(tree, prefix=""):
    """A nested dict as one dict of slash-joined names, sorted."""
    flat = {}
    for key, value in sorted(tree.items()):
        flat.update(flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value})
    return flat


def unflatten(flat):
    """The inverse of `flatten`."""
    tree = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree

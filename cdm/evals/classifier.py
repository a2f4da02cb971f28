"""A classifier trained from nothing on one set of images, in a folder that is resumed, and tested on another.

    g = grad CE + decay w,   m <- 0.9 m + g,   w <- w - rate(n) (g + 0.9 m)                          (1)
    rate(n) = peak B / 256 min(n / warm-up, 1) (1 + cos(pi n / N)) / 2                               (2)

SGD with Nesterov's momentum; n of N images seen, batches of B, and the rate in proportion to B after a warm-up (Goyal
et al. 2017). Weights decay, biases and batch norm do not (He et al. 2019). Example n is a function of (seed, n), so
that a run that was stopped ends as one that was not.

    RUN/checkpoints/   the training states         RUN/metrics.jsonl   rows of loss, accuracy and rate
"""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cdm import devices
from cdm.data.pipeline import batches
from cdm.data.reading import read_square
from cdm.data.threads import in_order
from cdm.evals.networks import resnet
from cdm.images.resize import to_float
from cdm.training.checkpoints import Checkpoints
from cdm.training.log import Log
from cdm.training.stop import Stopped

ROWS, CHECKPOINTS = 100, 20  # of a run
WARMUP = 0.05  # of a run
MOMENTUM = 0.9
ASPECT = 4 / 3  # of a crop: from 1 / ASPECT to ASPECT, evenly in the logarithm


def random_crops(images, keys, area):
    """Random resized crops (Szegedy et al. 2015) of [B, S, S, 3], row i by keys[i] alone: of a share of the image
    between `area` and 1, brought to S x S with bilinear weights."""
    side = images.shape[1]

    def crop(image, key):
        how_large, aspect, place = jax.random.split(key, 3)
        share = jax.random.uniform(how_large, minval=area)
        aspect = ASPECT ** jax.random.uniform(aspect, minval=-1.0)
        height, width = jnp.minimum(jnp.sqrt(share * jnp.stack([1 / aspect, aspect])), 1)
        top, left = jax.random.uniform(place, (2,)) * (1 - jnp.stack([height, width]))
        scale = 1 / jnp.stack([height, width])
        return jax.image.scale_and_translate(image, image.shape, (0, 1), scale, -jnp.stack([top, left]) * side * scale,
                                             "linear")

    return jax.vmap(crop)(images, keys)


def learning_rate(config, images):
    """Equation (2)."""
    images, total = jnp.asarray(images, jnp.float32), config.train.images
    rate = config.train.learning_rate * config.train.batch_size / 256
    return rate * jnp.minimum(images / (WARMUP * total), 1) * 0.5 * (1 + jnp.cos(math.pi * images / total))


def optimizer(config):
    """Equation (1), without the rate."""
    decayed = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
    return optax.chain(optax.add_decayed_weights(config.train.weight_decay, decayed),
                       optax.trace(MOMENTUM, nesterov=True))


def create(network, config):
    """The state before the first image: nested dicts of arrays."""
    variables = network.init(jax.random.key(config.train.seed, impl="threefry2x32"), config.size)
    return {**variables, "momentum": optimizer(config).init(variables["params"]), "images": jnp.zeros([], jnp.uint32)}


def step(network, config, state, batch):
    """(state, metrics) after one batch: dict of image [B, S, S, 3] uint8, label [B], index [B]."""
    image = to_float(batch["image"])
    if config.augment.area < 1:
        root = jax.random.key(config.train.seed, impl="threefry2x32")
        image = random_crops(image, jax.vmap(lambda n: jax.random.fold_in(root, n))(batch["index"]),
                             config.augment.area)

    def loss(params):
        logits, statistics = network.apply(params, state["statistics"], image, train=True)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), batch["label"])
        return jnp.mean(entropy), (statistics, jnp.mean(jnp.argmax(logits, -1) == batch["label"]))

    (value, (statistics, accuracy)), slope = jax.value_and_grad(loss, has_aux=True)(state["params"])
    updates, momentum = optimizer(config).update(slope, state["momentum"], state["params"])
    rate = learning_rate(config, state["images"])
    params = jax.tree.map(lambda p, u: p - rate * u, state["params"], updates)
    state = {"params": params, "statistics": statistics, "momentum": momentum,
             "images": state["images"] + np.uint32(len(batch["label"]))}
    return state, {"loss": value, "accuracy": accuracy, "learning_rate": rate}


def train(source, config, run, asked=lambda: False):
    """The trained state (`params`, `statistics`) of a classifier of `source`, from the newest checkpoint in the folder
    `run`. Raises Stopped, everything saved, once asked() says so."""
    split, everywhere = devices.shardings(devices.mesh())
    batch_size, total = config.train.batch_size, config.train.images // config.train.batch_size * config.train.batch_size
    if batch_size % len(split.mesh.devices):
        raise ValueError(f"`batch_size` (={batch_size}) must be divisible by the {len(split.mesh.devices)} devices")
    if not total:
        raise ValueError(f"`train_images` (={config.train.images}) must be at least a batch (={batch_size})")
    network = resnet.build(config.network, len(source.classes), config.dtype)
    make, bad = functools.partial(create, network, config), {}
    with Checkpoints(run, write=True, keep=2) as kept:
        images = max(kept.all(), default=0)
        if images:
            shapes = jax.eval_shape(make)
            state = kept.restore(images, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=everywhere), shapes))
        else:
            state = jax.jit(make, out_shardings=everywhere)()
        advance = jax.jit(functools.partial(step, network, config), donate_argnums=0, out_shardings=everywhere)

        def due(parts):
            """Whether the batch that ends at `images` passed such a part of the run."""
            return images * parts // total > (images - batch_size) * parts // total

        with contextlib.closing(Log(run, images, total)) as log:
            metrics = None
            for batch in batches(source, config, images, total, bad=bad):
                before, (state, metrics) = metrics, advance(state, jax.device_put(batch, split))
                jax.block_until_ready(before)  # one step ahead of the device and no more, so that memory stays flat
                images += batch_size
                log.advance(batch_size)
                if bad:
                    raise ValueError("`images`: {} can not be read: {}".format(*next(iter(bad.items()))))
                if due(ROWS):
                    row = {name: float(value) for name, value in metrics.items()}
                    log.row(images=images, **row)
                    if not math.isfinite(row["loss"]):
                        raise FloatingPointError(f"the classifier's loss was not finite at {images} of {total} images")
                stop = asked() and images < total
                if due(CHECKPOINTS) or stop:
                    kept.save(images, state)
                if stop:
                    kept.wait()
                    raise Stopped(f"the classifier was asked to stop and is saved at {images} of {total} images; the "
                                  "same command goes on")
    return state


def test(state, source, config):
    """(predicted [N], rank [N]) of every image of `source`: the class with the largest logit, and how many classes have
    a larger one than the right class."""
    split, everywhere = devices.shardings(devices.mesh())
    network, batch_size = resnet.build(config.network, len(source.classes), config.dtype), config.train.batch_size
    variables = jax.device_put({name: state[name] for name in ("params", "statistics")}, everywhere)

    @jax.jit
    def look(variables, image, label):
        logits, _ = network.apply(variables["params"], variables["statistics"], to_float(image), train=False)
        right = jnp.take_along_axis(logits, label[:, None], -1)
        return jnp.argmax(logits, -1), jnp.sum(logits > right, -1)

    found, images = [], in_order(functools.partial(read_square, source, size=config.size), len(source))
    for begin in range(0, len(source), batch_size):
        part = source.labels[begin : begin + batch_size]
        pixels = np.stack([next(images) for _ in part])
        pad = [(0, batch_size - len(part))]
        arguments = jax.device_put((np.pad(pixels, pad + 3 * [(0, 0)]), np.pad(part, pad)), split)
        found.append(np.stack(look(variables, *arguments))[:, : len(part)])
    return np.concatenate(found, 1)

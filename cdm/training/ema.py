"""Averages of power-function profile, and any of them from snapshots of two (Karras et al. 2024, sec. 3).

    average(t) = integral over s in [0, t] of p(s; t) params(s),   p(s; t) = (g + 1) s^g / t^(g + 1)      (1)
    average_k = b average_{k-1} + (1 - b) params_k,   b = (1 - dt / t)^(g + 1)                            (2)
    sigma = (g + 1)^(1/2) (g + 2)^-1 (g + 3)^-1/2,   the deviation of p over t                            (3)

Any profile is near a linear combination of those that were stored: the least squares over s, whose inner products are

    <p_a(.; t), p_b(.; u)> = (a + 1)(b + 1) / (a + b + 1) (m / t)^a (m / u)^b / max(t, u),   m = min(t, u)    (4)

Times are in images.
"""

import jax
import jax.numpy as jnp
import numpy as np


def gamma(sigma):
    """g of eq. 3 for sigma in (0, 0.28), the largest root of (g + 2)^2 (g + 3) = (g + 1) / sigma^2."""
    inverse = float(sigma) ** -2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def share(sigma, batch, images):
    """1 - b of eq. 2 for the batch that ends at `images`, a traced float32: exact where b is nearly 1."""
    return -jnp.expm1((gamma(sigma) + 1) * jnp.log1p(-(batch / images)))


def inner_products(a, b):
    """Eq. 4 between two lists of (images, sigma), [len(a), len(b)] float64."""
    t, u = (np.array([images for images, _ in side], np.float64) for side in (a, b))
    g, h = (np.array([gamma(sigma) for _, sigma in side]) for side in (a, b))
    t, g = t[:, None], g[:, None]
    least = np.minimum(t, u)
    return (g + 1) * (h + 1) / (g + h + 1) * (least / t) ** g * (least / u) ** h / np.maximum(t, u)


def coefficients(stored, wanted):
    """The weights, [len(stored)] float64, of stored averages, (images, sigma) each, that come nearest to a wanted one.

    Their sum is held at 1 (a Lagrange multiplier), so that a parameter that did not change is kept, however few the
    snapshots: free, as in the paper, they are 3 % off with two.
    """
    count = len(stored)
    products = inner_products(stored, stored)
    norm = np.sqrt(np.diag(products))  # profiles are scaled to norm 1, for the conditioning
    system = np.zeros([count + 1, count + 1])
    system[:count, :count] = products / np.outer(norm, norm)
    system[count, :count] = system[:count, count] = norm.mean() / norm
    right = np.append(inner_products(stored, [wanted])[:, 0] / norm, norm.mean())
    return np.linalg.lstsq(system, right, rcond=1e-14)[0][:count] / norm


def combine(stored, wanted, read):
    """The wanted average, (images, sigma), from stored ones: a nested dict of float32 arrays. read(images) gives the
    averages of one snapshot as {name of sigma: params}; one is held in memory at a time."""
    weights, total = coefficients(stored, wanted), None
    for images in dict.fromkeys(images for images, _ in stored):
        params = read(images)
        for (at, sigma), weight in zip(stored, weights):
            if at == images:
                part = jax.tree.map(lambda leaf: weight * np.asarray(leaf, np.float64), params[str(sigma)])
                total = part if total is None else jax.tree.map(np.add, total, part)
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), total)

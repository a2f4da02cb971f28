"""The variational bound of a discrete process, and a variance learned by it (Nichol and Dhariwal 2021).

With the levels l_0 > l_1 > ... > l_{T-1} of a table, entry 0 the cleanest, and p(x_{k-1} | x_k) = N(mean, variance):

    L_k = KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)),   k = 1 ... T - 1                        (1)
    L_0 = -log p(x_0 | x_1), a Gaussian integrated over the 2 / 255 that a grey level is wide     (2)
    L_T = KL(q(x_T | x_0) || N(0, 1))                                                             (3)
    log variance = v log beta + (1 - v) log beta~   (eq. 15 there), beta = sigma_t^2 (1 - r), beta~ = sigma_s^2 (1 - r);
                   at entry 0, where beta~ is 0, that of entry 1                                  (4)
    L_hybrid = L_simple + 0.001 L_vlb, the mean held fixed in the second (eq. 16), L_vlb estimated as T L_k at
               one k drawn uniformly                                                              (5)

All in bits a dimension: nats over ln 2, mean over pixels and channels.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cdm.diffusion import process

HYBRID = 0.001
GREY = 1 / 255  # half the width of a grey level in [-1, 1]


def variances(table):
    """(log beta, log beta~) of eq. 4 by entry of the table of logSNR, float64 [T] each."""
    above = np.append(np.inf, table[:-1])
    with np.errstate(over="ignore"):
        step = -np.expm1(table - above)
        log_beta = np.log(step / (1 + np.exp(table)))
        log_posterior = np.log(step[1:] / (1 + np.exp(above[1:])))
    return log_beta, np.append(log_posterior[:1], log_posterior)


def normal_kl(mean_q, log_variance_q, mean_p, log_variance_p):
    """KL(N(mean_q, .) || N(mean_p, .)) in nats, elementwise."""
    return 0.5 * (log_variance_p - log_variance_q - 1 + jnp.exp(log_variance_q - log_variance_p)
                  + (mean_q - mean_p) ** 2 * jnp.exp(-log_variance_p))


def grey_nll(x0, mean, log_variance):
    """Eq. 2 in nats, elementwise: x0 in [-1, 1] on the 256 levels; the outermost reach to infinity."""
    low, high = ((x0 - mean + side * GREY) * jnp.exp(-0.5 * log_variance) for side in (-1, 1))
    log_cdf, log_above = jax.scipy.stats.norm.logcdf(high), jax.scipy.stats.norm.logsf(low)
    # log(cdf(high) - cdf(low)), from the tail that is nearer, so that neither difference cancels.
    flip = low > 0
    upper, lower = (jnp.where(flip, -low, high), jnp.where(flip, -high, low))
    a, b = jax.scipy.stats.norm.logcdf(upper), jax.scipy.stats.norm.logcdf(lower)
    inside = a + jnp.log1p(-jnp.exp(jnp.minimum(b - a, -1e-7)))
    return -jnp.where(x0 < -0.999, log_cdf, jnp.where(x0 > 0.999, log_above, inside))


def bits(nats):
    """Nats [B, ...] as bits a dimension [B]."""
    return jnp.mean(nats, axis=tuple(range(1, nats.ndim))) / math.log(2)


def term(table, entry, x0, x_t, prediction):
    """Eq. 1, or at entry 0 eq. 2, in bits a dimension [B].

    table: logSNR [T]; entry: [B] integers; x0, x_t: [B, H, W, C], x_t at those entries; prediction: a Prediction with
    its variance fraction.
    """
    log_beta, log_posterior = (jnp.asarray(part, jnp.float32)[entry] for part in variances(table))
    shape = (-1,) + (1,) * (x0.ndim - 1)
    log_beta, log_posterior = log_beta.reshape(shape), log_posterior.reshape(shape)
    levels = jnp.asarray(table, jnp.float32)
    logsnr_t, logsnr_s = levels[entry], jnp.where(entry > 0, levels[jnp.maximum(entry - 1, 0)], jnp.inf)
    mean_p, _ = process.posterior(x_t, prediction.x0, logsnr_t, logsnr_s)
    mean_q, _ = process.posterior(x_t, x0, logsnr_t, logsnr_s)
    log_variance = prediction.fraction * log_beta + (1 - prediction.fraction) * log_posterior
    kl = normal_kl(mean_q, log_posterior, mean_p, log_variance)
    return jnp.where(entry > 0, bits(kl), bits(grey_nll(x0, mean_p, log_variance)))


def prior(table, x0):
    """Eq. 3 in bits a dimension [B]."""
    alpha, sigma = process.alpha_sigma(jnp.float32(table[-1]), x0)
    return bits(normal_kl(alpha * x0, 2 * jnp.log(sigma), 0.0, 0.0))

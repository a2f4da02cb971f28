"""Weights of the training loss by noise level.

A weight w(logSNR) is defined here on the squared error of x0, whatever the network predicts; the loss in the space of
the target is multiplied by w over that space's own weight, SNR for eps, 1 for x0, SNR + 1 for v:

    uniform         the target's own: the plain loss                                              (1)
    min_snr         min(SNR, gamma), gamma = 5 (Hang et al. 2023, sec. 3.4)                       (2)
    truncated_snr   max(SNR, 1) (Salimans and Ho 2022, sec. 4)                                    (3)
    edm             SNR + 1 (Karras et al. 2022, table 1: (s^2 + d^2) / (s d)^2 on the error of x0, which is
                    (SNR + 1) / d^2 with SNR = d^2 / s^2)                                         (4)
    sigmoid         SNR sigmoid(b - logSNR) (-dlogSNR/dt): sigmoid(b - logSNR) on the squared error of eps, per unit of
                    logSNR, which t drawn uniformly passes at the rate -dlogSNR/dt (Kingma and Gao 2023, eq. 5 and
                    sec. 5; Hoogeboom et al. 2024, sec. 3.1)                                      (5)

logSNR is that of the picture the network sees: of the standardised one (eq. 4 of process), whose variance is 1.
"""

import math

import jax
import jax.numpy as jnp

KINDS = ("uniform", "min_snr", "truncated_snr", "edm", "sigmoid")


def own(target, logsnr):
    """The logarithm of the weight on the squared error of x0 that the plain loss of a target has."""
    return {"eps": logsnr, "x0": jnp.zeros_like(logsnr), "v": jax.nn.softplus(logsnr)}[target]


def weight(kind, target, logsnr, rate=1.0, gamma=5.0, bias=-3.0):
    """What to multiply the loss of `target` (eps, x0, v) by at logsnr [B]; `rate` [B] is -dlogSNR/dt of the schedule,
    for eq. 5 alone, whose b is `bias`."""
    if kind not in KINDS:
        raise ValueError(f"`weight` (={kind!r}) must be one of {', '.join(KINDS)}")
    logarithm = {
        "uniform": lambda: own(target, logsnr),
        "min_snr": lambda: jnp.minimum(logsnr, math.log(gamma)),
        "truncated_snr": lambda: jnp.maximum(logsnr, 0.0),
        "edm": lambda: jax.nn.softplus(logsnr),
        "sigmoid": lambda: logsnr + jax.nn.log_sigmoid(bias - logsnr) + jnp.log(rate),
    }[kind]()
    return jnp.exp(logarithm - own(target, logsnr))

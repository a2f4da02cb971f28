"""Noise schedules: maps between time t in [0, 1] and the log signal-to-noise ratio.

The process is variance preserving (Ho et al. 2020, eq. 4; Kingma et al. 2021, eq. 1):

    x_t = alpha x_0 + sigma eps,    alpha^2 = sigmoid(logsnr),    sigma^2 = sigmoid(-logsnr)      (1)

t = 1 is the noisiest level. A schedule is a frozen value with two methods, each other's inverse and both monotone:

    logsnr(t)          cosine (Nichol and Dhariwal 2021, eq. 17, in the logSNR form of Ho and Salimans 2022, sec. 3):
                       logsnr(t) = -2 log tan(a + b t)                                            (2)
                       discrete: the float64 table of logsnr from cumprod(1 - beta)               (3)
                       flow: 2 ln((1 - t) / t), the straight path x_t = (1 - t) x_0 + t eps of flow matching (Lipman et
                       al. 2023), whose x_t is that of (1) times sqrt((1 - t)^2 + t^2)            (4)
                       edm: ln(sigma / alpha) at the quantile t of N(mean, deviation^2) (Karras et al. 2022, table 1):
                       what is drawn uniformly in t is drawn so                                   (5)
    A shift of 2 ln(reference / size) makes an image of `size` pixels a side as noisy as one of `reference` (Hoogeboom
    et al. 2023, eq. 4); inputs scaled by b and brought back to unit variance (Chen 2023) are a shift of 2 ln b.

    time(logsnr)

Both take NumPy values (and then answer in float64) or JAX values (float32, traceable).
"""

import dataclasses
import functools
import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special


def _namespace(x):
    """(array module, x as an array of it): JAX values stay on JAX, everything else is float64 on the host."""
    if isinstance(x, jax.Array):
        return jnp, x
    return np, np.asarray(x, np.float64)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """The cosine schedule, eq. 2, plus `shift`, between two logSNR bounds.

    The offset 0.008 of the discrete form is logsnr_max = -2 log tan(0.008 / 1.008 * pi / 2) = 8.77.
    """

    logsnr_min: float = -20.0
    logsnr_max: float = 20.0
    shift: float = 0.0

    def __post_init__(self):
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError(f"`logsnr_min` (={self.logsnr_min}) must be below `logsnr_max` (={self.logsnr_max})")

    @property
    def _angles(self):
        """The angles of t = 0 from the clean end and of t = 1 from the noisy end, and the span between them."""
        clean = math.atan(math.exp((self.shift - self.logsnr_max) / 2))
        noisy = math.atan(math.exp((self.logsnr_min - self.shift) / 2))
        return clean, noisy, math.pi / 2 - clean - noisy

    def logsnr(self, t):
        xp, t = _namespace(t)
        clean, noisy, span = self._angles
        # tan loses its digits near pi/2, so each half is measured from its own end.
        near_clean = -2 * xp.log(xp.tan(clean + span * xp.minimum(t, 0.5)))
        near_noise = 2 * xp.log(xp.tan(noisy + span * (1 - xp.maximum(t, 0.5))))
        # Rounding must not carry an end past its bound: levels are checked against the bounds.
        return xp.clip(xp.where(t < 0.5, near_clean, near_noise) + self.shift, self.logsnr_min, self.logsnr_max)

    def time(self, logsnr):
        xp, logsnr = _namespace(logsnr)
        logsnr = logsnr - self.shift
        clean, noisy, span = self._angles
        near_clean = (xp.arctan(xp.exp(-xp.maximum(logsnr, 0) / 2)) - clean) / span
        near_noise = 1 - (xp.arctan(xp.exp(xp.minimum(logsnr, 0) / 2)) - noisy) / span
        return xp.where(logsnr > 0, near_clean, near_noise)


@dataclasses.dataclass(frozen=True)
class Flow:
    """Eq. 4 between two logSNR bounds: its own time runs between those of the bounds."""

    logsnr_min: float = -20.0
    logsnr_max: float = 20.0

    __post_init__ = Cosine.__post_init__

    @property
    def _ends(self):
        """Its own time at t = 0, what is left of it after t = 1, and the span between them."""
        clean, noisy = 1 / (1 + math.exp(self.logsnr_max / 2)), 1 / (1 + math.exp(-self.logsnr_min / 2))
        return clean, noisy, 1 - clean - noisy

    def logsnr(self, t):
        xp, t = _namespace(t)
        clean, noisy, span = self._ends
        levels = 2 * (xp.log(noisy + span * (1 - t)) - xp.log(clean + span * t))
        return xp.clip(levels, self.logsnr_min, self.logsnr_max)

    def time(self, logsnr):
        xp, logsnr = _namespace(logsnr)
        clean, noisy, span = self._ends
        # Each half from its own end, so that neither loses its digits.
        near_clean = (1 / (1 + xp.exp(xp.maximum(logsnr, 0) / 2)) - clean) / span
        near_noise = 1 - (1 / (1 + xp.exp(-xp.minimum(logsnr, 0) / 2)) - noisy) / span
        return xp.where(logsnr > 0, near_clean, near_noise)


@dataclasses.dataclass(frozen=True)
class Edm:
    """Eq. 5 between two logSNR bounds. Its levels are for training; sampling takes the grid `rho`."""

    logsnr_min: float = -20.0
    logsnr_max: float = 20.0
    mean: float = -1.2
    deviation: float = 1.2

    def __post_init__(self):
        Cosine.__post_init__(self)
        if not self.deviation > 0:
            raise ValueError(f"`deviation` (={self.deviation}) must be positive")

    def _quantile(self, xp, logsnr):
        ndtr = jax.scipy.special.ndtr if xp is jnp else scipy.special.ndtr
        return ndtr((-logsnr / 2 - self.mean) / self.deviation)

    @property
    def _ends(self):
        """The quantiles of t = 0 and 1."""
        return self._quantile(np, self.logsnr_max), self._quantile(np, self.logsnr_min)

    def logsnr(self, t):
        xp, t = _namespace(t)
        clean, noisy = self._ends
        ndtri = jax.scipy.special.ndtri if xp is jnp else scipy.special.ndtri
        levels = -2 * (self.mean + self.deviation * ndtri(clean + (noisy - clean) * t))
        return xp.clip(levels, self.logsnr_min, self.logsnr_max)

    def time(self, logsnr):
        xp, logsnr = _namespace(logsnr)
        clean, noisy = self._ends
        return (self._quantile(xp, logsnr) - clean) / (noisy - clean)


class Discrete:
    """A schedule through the T entries of a table, eq. 3, linear in logSNR between them.

    Entry k (0 is the cleanest) sits at t = (k + 1) / T, so the grid of n uniform steps visits every (T/n)-th entry
    and its first is always the noisiest. Below t = 1 / T the level stays that of entry 0.
    """

    def logsnr(self, t):
        xp, t = _namespace(t)
        table = self.table
        return xp.interp(t * len(table) - 1, np.arange(len(table), dtype=np.float64), table)

    def time(self, logsnr):
        return (self.entry(logsnr) + 1) / self.timesteps

    def entry(self, logsnr):
        """k of a level of the table, and what lies between the two nearest of another: DDPM's timestep, from 0."""
        xp, logsnr = _namespace(logsnr)
        table = self.table
        # interp wants rising abscissae; the table falls.
        return xp.interp(-logsnr, -table, np.arange(len(table), dtype=np.float64))

    def __post_init__(self):
        if not (isinstance(self.timesteps, numbers.Integral) and self.timesteps >= 2):
            raise ValueError(f"`timesteps` (={self.timesteps}) must be an integer of at least 2")

    @functools.cached_property
    def table(self):
        """logSNR of entry k, [T] float64, falling."""
        log_alpha2 = np.cumsum(np.log1p(-self._betas()))
        return log_alpha2 - np.log(-np.expm1(log_alpha2))

    @property
    def logsnr_max(self):
        return float(self.table[0])

    @property
    def logsnr_min(self):
        return float(self.table[-1])


@dataclasses.dataclass(frozen=True)
class LinearBeta(Discrete):
    """beta linear in k (Ho et al. 2020, sec. 4: 1e-4 to 0.02 over 1000)."""

    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"`beta_start` (={self.beta_start}) and `beta_end` (={self.beta_end}) must satisfy "
                             "0 < beta_start <= beta_end < 1")

    def _betas(self):
        return np.linspace(self.beta_start, self.beta_end, self.timesteps, dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class DiscreteCosine(Discrete):
    """abar(k) = cos^2((k / T + 0.008) / 1.008 * pi / 2), beta clipped at 0.999 (Nichol and Dhariwal 2021, eq. 17)."""

    timesteps: int = 4000

    def _betas(self):
        def abar(k):
            return np.cos((k / self.timesteps + 0.008) / 1.008 * np.pi / 2) ** 2

        k = np.arange(self.timesteps, dtype=np.float64)
        return np.minimum(1 - abar(k + 1) / abar(k), 0.999)


SCHEDULES = {"cosine": Cosine, "flow": Flow, "edm": Edm, "linear_beta": LinearBeta, "discrete_cosine": DiscreteCosine}


def make(name, **parameters):
    """The schedule called `name` (a key of SCHEDULES) with its parameters."""
    if name not in SCHEDULES:
        raise ValueError(f"`schedule` (={name!r}) must be one of {', '.join(SCHEDULES)}")
    fields = {f.name for f in dataclasses.fields(SCHEDULES[name])}
    for key in parameters:
        if key not in fields:
            raise ValueError(f"`schedule.{key}` (={parameters[key]!r}) is not a parameter of {name}: {sorted(fields)}")
    return SCHEDULES[name](**parameters)


def rate(schedule, t):
    """-dlogSNR/dt at t [B]: how much of the noise levels a unit of time passes, in float32; traceable."""
    return -jax.jvp(schedule.logsnr, (t,), (jnp.ones_like(t),))[1]

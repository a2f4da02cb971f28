"""How one stage samples: its Settings, what they may be, and the Plan of samplers that they make."""

import numbers
from typing import NamedTuple

import numpy as np

from cdm.diffusion import grids, samplers

HAND_OVERS, THRESHOLDS = ("non_truncated", "truncated"), ("static", "dynamic")
# What belongs to one sampler alone, with what it may be.
OPTIONS = {"ancestral": "variance", "ddim": "eta", "heun": "churn"}
SEQUENCES = ("grid", "interval")  # settings of which one value may be a sequence of numbers


class Settings(NamedTuple):
    """steps: evaluations of the denoiser; guidance: the weight w, 0 is off; sampler: one of samplers.SAMPLERS.

    grid: how its levels lie, one of grids.KINDS, or themselves: rising logSNR, a level an evaluation (Heun's: a step).
    interval: (low, high) logSNR that guidance is limited to, or None; threshold: of x0, one of THRESHOLDS.
    eta, churn, variance: of DDIM, of Heun, and of ancestral steps ("small", "large" or "learned"); None elsewhere.
    aug_level, hand_over (one of HAND_OVERS): of the input of a super-resolution stage; None of a base stage.
    """

    steps: int
    guidance: float
    sampler: str
    grid: str | tuple = "time"
    interval: tuple | None = None
    threshold: str = "static"
    eta: float | None = None
    churn: float | None = None
    variance: str | None = None
    aug_level: float | None = None
    hand_over: str | None = None

    def as_json(self):
        """The settings by name, as JSON gives them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}


def settings_of(stage, guide=None, **changes):
    """The Settings of a stage: its config's, with the changes that are not None; checked against the stage, and the
    Stage that guides it if there is one."""
    sample = stage.config.sample
    names = {"steps", "guidance", "sampler", "grid", "interval", "threshold"}
    if stage.lowres_size:
        names |= {"aug_level", "hand_over"}
    changes = {name: value for name, value in changes.items() if value is not None}
    for name in changes.keys() - names - set(OPTIONS.values()):
        raise ValueError(f"`{name}` (={changes[name]}) must be a setting of {stage.name}: {', '.join(sorted(names))}")
    values = {name: sample[name] for name in names - {"hand_over"}}
    values |= {"hand_over": "non_truncated"} if stage.lowres_size else {}
    values |= changes
    own = OPTIONS.get(values["sampler"])
    for name in set(OPTIONS.values()) - {own}:
        if name in changes:
            sampler = next(sampler for sampler, option in OPTIONS.items() if option == name)
            raise ValueError(f"`{name}` (={changes[name]}) must come with the sampler {sampler}, not "
                             f"{values['sampler']}")
    if own and own not in changes:
        values[own] = "learned" if own == "variance" and stage.learned_variance else sample[own]
    for name in SEQUENCES:
        if isinstance(values[name], (list, tuple)):
            values[name] = tuple(values[name]) or None
    if not isinstance(values["grid"] or (), str):
        _check_levels(values["grid"])
        values["steps"] = 2 * len(values["grid"]) - 1 if values["sampler"] == "heun" else len(values["grid"])
    settings = Settings(**values)
    _check(stage, settings, guide)
    return settings


def _check(stage, settings, guide):
    def need(name, ok, rule):
        if not ok:
            raise ValueError(f"`{name}` (={getattr(settings, name)}) must {rule}")

    steps = settings.steps
    for name in ("guidance", "eta", "churn", "aug_level"):
        need(name, isinstance(getattr(settings, name), (numbers.Real, type(None))), "be a number")
    need("steps", isinstance(steps, (int, np.integer)) and 1 <= steps <= samplers.CAPACITY,
         f"be an integer in 1..{samplers.CAPACITY}")
    need("guidance", settings.guidance >= 0 and np.isfinite(settings.guidance), "be at least 0")
    need("guidance", not settings.guidance or guide or (stage.classes and stage.config.train.class_dropout > 0),
         f"be 0 for {stage.name}: it was trained without the null class")
    need("sampler", settings.sampler in samplers.SAMPLERS, f"be one of {', '.join(samplers.SAMPLERS)}")
    need("grid", not isinstance(settings.grid, str) or settings.grid in grids.KINDS,
         f"be one of {', '.join(grids.KINDS)}, or rising levels of logSNR")
    interval = settings.interval
    need("interval", interval is None or _numbers(interval) and len(interval) == 2 and interval[0] < interval[1],
         "be two rising levels of logSNR")
    need("threshold", settings.threshold in THRESHOLDS, f"be one of {', '.join(THRESHOLDS)}")
    need("eta", settings.eta is None or 0 <= settings.eta <= 1, "lie in [0, 1]")
    need("churn", settings.churn is None or 0 <= settings.churn < np.inf, "be at least 0")
    need("variance", settings.variance in (None, "small", "large") or (
        settings.variance == "learned" and stage.learned_variance),
         f"be small or large{', or learned' * stage.learned_variance}")
    if stage.lowres_size:
        limit = stage.config.augment.max_level
        need("aug_level", 0 <= settings.aug_level <= limit,
             f"lie in [0, {limit}], the levels that {stage.name} is trained for")
        need("hand_over", settings.hand_over in HAND_OVERS, f"be one of {', '.join(HAND_OVERS)}")


def _numbers(values):
    return isinstance(values, tuple) and all(isinstance(value, numbers.Real) for value in values)


def _check_levels(levels):
    good = levels and _numbers(levels)
    if not good or np.any(np.diff(levels) <= 0) or not -np.inf < levels[0] or not levels[-1] < np.inf:
        raise ValueError(f"`grid` (={levels}) must be one of {', '.join(grids.KINDS)}, or rising levels of logSNR")


def plan(stage, settings, stop_logsnr=None):
    """The Plan of a stage's settings, to the clean image or to a level."""
    if isinstance(settings.grid, str):
        steps = samplers.intervals(settings.sampler, settings.steps)
        knots = grids.grid(stage.schedule, steps, settings.grid, stop_logsnr, stage.config.diffusion.data_std)
    else:
        knots = np.append(settings.grid, np.inf)
        knots = knots if stop_logsnr is None else grids.stopped(knots, stop_logsnr)
    option = OPTIONS.get(settings.sampler)
    return samplers.plan(settings.sampler, knots, **({option: getattr(settings, option)} if option else {}))

"""Progressive distillation: a student learns to take in one step what its teacher's sampling takes in two (Salimans and
Ho 2022, alg. 2).

The knots of the student's N steps are every other one of the teacher's 2N. DDIM is linear in the state and x0, and from
one level to another it has the same coefficients whether in one step or two: if the teacher predicts x0' at the knot t
and x0'' at the one between, its two steps end where one step ends with

    x0 = w x0' + (1 - w) x0'',   w = a'' b' / (a'' b' + b'')                                      (1)

a and b of the steps x_s = a x_t + b x0. This is the student's target x~ (alg. 2, line 11) without a difference of states
in it. The teacher predicts as it samples, with its guidance and its clipping, which so become the student's own.
"""

import functools

import jax.numpy as jnp
import numpy as np

from cdm.diffusion import grids, samplers
from cdm.settings import settings_of
from cdm.stage import load_stage
from cdm.training.run import differences


class Teacher:
    """The stage that the config of the Stage `student` names as `train.teacher`: its `params`, and the `facts` of who it
    is."""

    def __init__(self, student):
        config, folder = student.config, student.config.train.teacher
        self._stage = load_stage(folder)

        def need(ok, rule):
            if not ok:
                raise ValueError(f"`train.teacher` (={folder}) must {rule}")

        need(not self._stage.regression, "be a diffusion stage, not a regression")
        need(self._stage.classes == student.classes,
             f"know the classes of the pictures, {', '.join(student.classes) or 'none'}, and knows "
             f"{', '.join(self._stage.classes) or 'none'}")
        for name in differences(self._stage.config.to_dict(), config.to_dict()):
            same = not name.startswith(("size", "lowres_size", "model.", "diffusion."))
            own = ("model.remat", "model.dropout", "diffusion.weight", "diffusion.weight_bias", "diffusion.norm")
            need(same or name in own, f"be of the student's `{name}`")  # those say how it learns, not what it is
        steps = config.sample.steps
        # Checked as any sampling is: guidance, and as many levels as the schedule has.
        self._settings = settings_of(self._stage, steps=2 * steps, sampler="ddim", grid="time", eta=0.0,
                                     guidance=config.train.teacher_guidance)
        self.params = self._stage.params
        self.facts = {"sha256": self._stage.sha256, "steps": 2 * steps, "guidance": config.train.teacher_guidance,
                      **self._stage.facts}
        knots = grids.grid(self._stage.schedule, 2 * steps, std=config.diffusion.data_std)
        a, b = samplers.ddim(knots)[1][:, :2].T
        first, second = a[1::2] * b[0::2], b[1::2]
        # Float64 until here. In a network's words: the level of each step, that between, and eq. 1.
        self.levels, self.between, self._a, self._b, self._share = (
            np.asarray(v, np.float32) for v in (knots[:-1:2], knots[1::2], a[::2], b[::2], first / (first + second)))

    def lesson(self, params):
        """What `Stage.loss` teaches, with the teacher's parameters where the program has them."""
        return Lesson(self, params)

    def denoise(self, params, x_t, logsnr, label, lowres, aug_logsnr):
        """The x0 of the teacher's sampling; the examples' levels differ, so each is guided where it lies."""
        guidance, interval = self._settings.guidance, self._settings.interval
        if guidance and interval:
            guidance = jnp.where((interval[0] < logsnr) & (logsnr < interval[1]), guidance, 0.0)
        guidance = guidance if self._settings.guidance else None
        return self._stage.denoiser(params, label, lowres, aug_logsnr, guidance,
                                    threshold=self._settings.threshold)(x_t, logsnr).x0


class Lesson:
    """A Teacher at work, inside a program."""

    def __init__(self, teacher, params):
        self._teacher, self._params = teacher, params

    def level(self, t):
        """(logSNR [B], which step [B]) of t [B] in [0, 1): the levels that the student samples at, 0 the noisiest."""
        levels = jnp.asarray(self._teacher.levels)
        entry = len(levels) - 1 - jnp.minimum((t * len(levels)).astype(jnp.int32), len(levels) - 1)
        return levels[entry], entry

    def x0(self, x_t, entry, label, lowres=None, aug_logsnr=None):
        """Eq. 1 for the x_t [B, H, W, 3] at the steps `entry` [B]."""
        t = self._teacher
        levels, between, a, b, share = (jnp.asarray(v)[entry] for v in (t.levels, t.between, t._a, t._b, t._share))
        a, b, share = (v.reshape(-1, 1, 1, 1) for v in (a, b, share))
        denoise = functools.partial(t.denoise, self._params, label=label, lowres=lowres, aug_logsnr=aug_logsnr)
        first = denoise(x_t, levels)
        return share * first + (1 - share) * denoise(a * x_t + b * first, between)

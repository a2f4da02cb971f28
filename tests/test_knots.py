"""The searched grid: from a stage's own errors at real pictures, and one that it can sample by."""

import jax
import numpy as np
import pytest

from cdm.cascade import sample_stage
from cdm.data.reading import read_square
from cdm.data.sources import open_source
from cdm.diffusion import process
from cdm.evals import knots
from cdm.images import augment
from cdm.images.resize import resize, to_float


@pytest.mark.parametrize("name", ["base_stage", "sr_stage"])
def test_the_errors_are_those_of_the_loss(name, request, class_folder):
    stage, source = request.getfixturevalue(name), open_source(str(class_folder))
    levels, found = knots.errors(stage, source, 0.3)
    assert found.shape == levels.shape == (knots.LEVELS,) and np.all(np.diff(levels) > 0)
    records = np.linspace(0, len(source) - 1, knots.PICTURES).astype(int)
    x0 = to_float(np.stack([read_square(source, int(i), stage.size) for i in records]))
    pairs = jax.vmap(lambda key: jax.random.split(key))(jax.random.split(
        jax.random.key(0, impl="threefry2x32"), knots.PICTURES))
    given = ()
    if stage.lowres_size:
        given = augment.noise(resize(x0, stage.lowres_size), np.full(len(x0), 0.3, np.float32), stage.augment_schedule,
                              pairs[:, 0])
    eps = augment.normal(pairs[:, 1], x0.shape[1:])
    for k in (0, 20, 50):
        logsnr = np.full(len(x0), levels[k], np.float32)
        loss = stage.regress(stage.params, x0, logsnr, eps, source.labels[records], *given)
        wanted = np.mean(process.x0_mse(stage.config.diffusion.target, loss, logsnr))
        np.testing.assert_allclose(found[k], wanted, rtol=1e-4)


def test_a_stage_samples_by_its_searched_grid(base_stage, class_folder):
    grid = knots.levels(*knots.errors(base_stage, open_source(str(class_folder))), 3)
    assert len(grid) == 3 and np.all(np.diff(grid) > 0)
    images = sample_stage(base_stage, [0, 1], grid=grid, sampler="dpmpp_2m")
    assert np.all(np.isfinite(images)) and np.abs(images - sample_stage(base_stage, [0, 1], steps=3,
                                                                       sampler="dpmpp_2m")).max() > 1e-3

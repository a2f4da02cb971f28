"""Progressive distillation: the target is the teacher's two steps in one, and students come to take them."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm import cli
from cdm import config as configs
from cdm.cascade import sample_stage
from cdm.diffusion import grids
from cdm.stage import Stage, load_config, load_stage
from cdm.training import loop, students
from cdm.training import run as runs
from cdm.training import state as states
from cdm.training.distillation import Teacher
from cdm.training.stop import Stopped


@pytest.fixture(scope="module")
def folders(tmp_path_factory, base_stage, sr_stage, run, class_folder):
    """Stage folders of lively stages, "base" and "sr", and of the tiny run, "run", whose network compiles soonest."""
    out = tmp_path_factory.mktemp("teachers")
    runs.export([run], out / "run")
    for name, stage in (("base", base_stage), ("sr", sr_stage)):
        tree = stage.config.to_dict()
        tree["data"]["source"] = str(class_folder)
        Stage(configs.from_dict(tree), stage.classes, stage.params).save(out / name)
    return out


def student(folder, steps, overrides=()):
    return students.student(folder, load_config(folder), steps, 0.0, overrides)


def taught(folder, steps=4, guidance=0.0, overrides=()):
    """(Teacher, Stage of the student), of a stage folder."""
    student = Stage(students.student(folder, load_config(folder), steps, guidance, overrides), load_stage(folder).classes)
    return Teacher(student), student


def two_steps(stage, params, x, knots, label, lowres, aug_logsnr, guidance):
    """Two steps of DDIM by its equation 12, in float64 but for the network."""
    denoise = stage.denoiser(params, label, lowres, aug_logsnr, guidance)
    x = np.asarray(x, np.float64)
    for t, s in zip(knots, knots[1:]):
        (alpha, sigma), (alpha_s, sigma_s) = ([np.sqrt(1 / (1 + np.exp(sign * v))) for sign in (-1, 1)] for v in (t, s))
        x0 = np.asarray(denoise(jnp.asarray(x, jnp.float32), jnp.full(len(x), t, jnp.float32)).x0, np.float64)
        x = alpha_s * x0 + sigma_s * (x - alpha * x0) / sigma
    return x


@pytest.mark.parametrize("name, guidance", [("base", 0.0), ("base", 1.5), ("sr", 0.0)])
def test_one_step_with_the_target_is_two_of_the_teacher(folders, name, guidance):
    teacher, student = taught(folders / name, 4, guidance)
    stage, random = load_stage(folders / name), np.random.default_rng(0)
    knots = grids.grid(stage.schedule, 8)
    t = (np.arange(4) + 0.5) / 4
    x = random.normal(size=(4, student.size, student.size, 3)).astype(np.float32)
    label, lowres, aug_logsnr = np.array([0, 1, 2, 0]), None, None
    if student.lowres_size:
        lowres, aug_logsnr = random.normal(size=(4, 8, 8, 3)).astype(np.float32), np.linspace(0, 5, 4, dtype=np.float32)
    lesson = teacher.lesson(teacher.params)
    level, entry = lesson.level(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(level, grids.grid(student.schedule, 4)[3 - np.arange(4)], rtol=1e-6)  # as it samples
    x0 = np.asarray(lesson.x0(x, entry, label, lowres, aug_logsnr), np.float64)
    for i, k in enumerate(np.asarray(entry)):
        one = slice(i, i + 1)
        given = (None, None) if lowres is None else (lowres[one], aug_logsnr[one])
        wanted = two_steps(stage, stage.params, x[one], knots[2 * k:2 * k + 3], label[one], *given, guidance or None)
        (alpha, sigma), (alpha_s, sigma_s) = (
            [np.sqrt(1 / (1 + np.exp(sign * v))) for sign in (-1, 1)] for v in (knots[2 * k], knots[2 * k + 2]))
        found = alpha_s * x0[one] + sigma_s * (x[one] - alpha * x0[one]) / sigma
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_guidance_is_built_in_where_the_teachers_interval_has_it(folders, tmp_path):
    stage = load_stage(folders / "base")
    tree = stage.config.to_dict()
    tree["sample"]["interval"] = (-1.0, 1.0)
    Stage(configs.from_dict(tree), stage.classes, stage.params).save(tmp_path / "limited")
    arguments = np.ones((2, 8, 8, 3), np.float32), jnp.array([0.0, 2.0]), np.array([1, 2]), None, None
    found = {name: taught(folder, 4, guidance)[0].denoise(stage.params, *arguments) for name, folder, guidance in (
        ("limited", tmp_path / "limited", 2.0), ("guided", folders / "base", 2.0), ("plain", folders / "base", 0.0))}
    np.testing.assert_allclose(found["limited"][0], found["guided"][0], atol=1e-6)
    np.testing.assert_allclose(found["limited"][1], found["plain"][1], atol=1e-6)
    assert np.abs(found["guided"] - found["plain"]).max(axis=(1, 2, 3)).min() > 1e-3


def test_a_student_that_is_its_teacher_is_wrong_by_the_step_alone(folders):
    """A student with the parameters of its teacher loses the square of the teacher's own change of mind between the two
    levels; one whose target is what it says already loses nothing."""
    teacher, student = taught(folders / "base", 4, overrides=["--config.diffusion.target=v"])
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (4, 8, 8, 3), np.uint8)
    arguments = image, np.array([0, 1, 2, 0]), np.arange(4, dtype=np.uint32), 0

    class Agreeing:
        level = teacher.lesson(teacher.params).level

        def x0(self, x_t, entry, label, lowres, aug_logsnr):
            return student.predict(teacher.params, x_t, jnp.asarray(teacher.levels)[entry], label).x0

    assert student.loss(teacher.params, *arguments, Agreeing())[0] < 1e-9
    assert student.loss(teacher.params, *arguments, teacher.lesson(teacher.params))[0] > 1e-5


def test_a_student_may_weigh_noise_levels_in_its_own_way(folders):
    """Salimans and Ho 2022, sec. 4: what weight there is on x0 where a student's first step is."""
    teacher, student = taught(folders / "base", 4, overrides=["--config.diffusion.weight=truncated_snr"])
    assert student.config.diffusion.weight == "truncated_snr" != load_config(folders / "base").diffusion.weight
    with pytest.raises(ValueError, match="must be of the student's `diffusion.target`"):
        taught(folders / "base", 4, overrides=["--config.diffusion.target=x0"])


def test_students_sample_in_few_steps_what_their_teacher_samples_in_many(folders, tmp_path):
    overrides = ["--config.train.images=800", "--config.train.batch_size=16", "--config.train.learning_rate=0.002",
                 "--config.checkpoint.every=800", "--config.log.every=800"]
    last = students.distill(folders / "run", tmp_path / "few", (2, 1), 1.0, overrides)
    assert last == tmp_path / "few" / "stage_1"
    teacher, labels = load_stage(folders / "run"), np.arange(12) % 3
    many = sample_stage(teacher, labels, sampler="ddim", steps=4, guidance=1.0)
    for n in (2, 1):
        own = sample_stage(teacher, labels, sampler="ddim", steps=n, guidance=1.0)
        learnt = sample_stage(load_stage(tmp_path / "few" / f"stage_{n}"), labels)
        assert np.mean((learnt - many)**2) < 0.7 * np.mean((own - many)**2)
    with pytest.raises(ValueError, match="`workdir` .* holds another student, stage_2; these differ: train.teacher_g"):
        students.distill(folders / "run", tmp_path / "few", (2, 1), 2.0, overrides)
    facts = load_stage(last).facts
    assert facts["images"] == 800 and facts["teacher"]["steps"] == 2 and facts["teacher"]["guidance"] == 0
    assert facts["teacher"]["teacher"] == {"sha256": teacher.sha256, "steps": 4, "guidance": 1.0, **teacher.facts}


def test_a_student_stopped_and_resumed_ends_as_one_never_stopped(folders, tmp_path):
    for name, ends in (("straight", (16,)), ("stopped", (8, 16))):
        for images in ends:
            config = student(folders / "run", 2, [f"--config.train.images={images}", "--config.train.warmup=4",
                                                 "--config.train.ema_half_life=8"])
            with config.unlocked():
                config.train.decay = "none"
            loop.train(config, tmp_path / name)
    one, other = (runs.restored(tmp_path / name)[1] for name in ("straight", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    # Its lesson can not change on the way: neither the steps, which of other runs may, nor the teacher.
    changed = student(folders / "run", 4, ["--config.train.images=24", "--config.train.warmup=4",
                                          "--config.train.ema_half_life=8", "--config.train.decay=none"])
    with pytest.raises(ValueError, match="another teacher .* or of other steps"):
        loop.train(changed, tmp_path / "straight")


def test_students_are_trained_alike_for_a_part_of_what_their_stage_was(folders):
    first = load_config(folders / "base")
    assert student(folders / "base", 4).train.images == first.train.images // students.SHARE == 4
    longer = student(folders / "base", 4, ["--config.train.images=4000"]).train
    assert (longer.images, longer.warmup, longer.ema_half_life) == (4000, 200, 200)
    assert student(folders / "base", 4, ["--config.train.images=4000", "--config.train.warmup=7"]).train.warmup == 7


def test_a_line_of_students_stops_between_two_of_them(folders, tmp_path, monkeypatch):
    def export(*arguments):  # where a training no longer listens
        signal.raise_signal(signal.SIGTERM)
        return runs.export(*arguments)

    monkeypatch.setattr(students, "export", export)
    with pytest.raises(Stopped, match="the student of 4 steps is finished, the same command goes on"):
        students.distill(folders / "run", tmp_path, (4, 2))
    assert {path.name for path in tmp_path.iterdir()} == {"steps_4", "stage_4"}


def test_a_learned_variance_is_kept_out_of_the_lesson(folders, tiny_base, make_stage, tmp_path, class_folder):
    tiny_base.diffusion.schedule = {"name": "linear_beta"}
    tiny_base.diffusion.levels, tiny_base.diffusion.variance = "table", "learned"
    tiny_base.data.source = str(class_folder)
    make_stage(tiny_base).save(tmp_path / "teacher")
    teacher, student = taught(tmp_path / "teacher", 2)
    image = np.zeros((4, 8, 8, 3), np.uint8)
    sums = student.loss(teacher.params, image, np.zeros(4, int), np.arange(4, dtype=np.uint32), 0,
                        teacher.lesson(teacher.params))[1]
    assert "bits" not in sums and "bits" not in states.create(student, teacher.params).totals


def test_who_can_not_teach_is_told_so_in_one_line(folders, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"`steps` \(=8,4,3\) must each be half"):
        students.distill(folders / "base", tmp_path / "run", (8, 4, 3))
    with pytest.raises(ValueError, match=r"`train.teacher` .* must be of the student's `model.blocks`"):
        taught(folders / "base", 4, overrides=["--config.model.blocks=2"])
    with pytest.raises(ValueError, match=r"`guidance` \(=-1.0\) must be at least 0"):
        taught(folders / "base", 4, guidance=-1.0)
    with pytest.raises(ValueError, match=r"`train.teacher` .* must know the classes of the pictures, a, b, and knows"):
        Teacher(Stage(student(folders / "base", 4), ("a", "b")))
    with pytest.raises(ValueError, match=r"`sample.sampler` \(=heun\) must be ddim with a teacher"):
        student(folders / "base", 4, ["--config.sample.sampler=heun"])
    assert not (tmp_path / "run").exists()
    assert cli.main(["distill", str(tmp_path / "none"), "--workdir", str(tmp_path / "run")]) == 2
    assert "must be a stage folder" in capsys.readouterr().err


def test_the_verb_leads_to_a_stage_that_goes_into_a_cascade(folders, tmp_path, capsys):
    command = ["distill", str(folders / "run"), "--workdir", str(tmp_path / "few"), "--steps", "2",
               "--config.train.images=8"]
    assert cli.main(command) == 0 and "next: cdm export" in capsys.readouterr().out
    assert cli.main(command) == 0  # there is nothing left to do
    assert cli.main(["export", str(tmp_path / "few" / "stage_2"), str(folders / "sr"), "--out",
                     str(tmp_path / "cascade")]) == 0
    assert load_stage(tmp_path / "cascade" / "base_8").config.sample.steps == 2

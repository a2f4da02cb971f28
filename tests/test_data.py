"""Data: the embedded set is whole and fairly split, a folder is its labels, and the order of training is a function."""

import collections
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from cdm.data.decode import decode
from cdm.data.pipeline import Order, batches
from cdm.data.reading import read_square
from cdm.data.sources import FluentEmoji, Pictures, open_source

TONES = {f"1f3f{digit}" for digit in "bcdef"}


class Plain:
    """A source of flat pictures that tell their record: record i is of the colour (i, label, 0)."""

    def __init__(self, *counts):
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.classes = tuple("abcdefgh"[: len(counts)])
        self.names = [f"{i}.png" for i in range(len(self.labels))]

    def __len__(self):
        return len(self.labels)

    def read(self, i):
        image = np.zeros((8, 8, 3), np.uint8)
        image[..., 0], image[..., 1] = i, self.labels[i]
        image[:, 4:, 2] = 255  # the right half, so that a flip shows
        return image


@pytest.fixture(scope="module")
def emoji():
    return FluentEmoji("all")


def base(name):
    """The code points of an emoji's file name without skin tones and presentation selectors."""
    points = re.split("[-_]", name.rsplit("/", 1)[-1].split(".")[0])
    return "-".join(p for p in points if p not in TONES and p != "fe0f")


def test_the_embedded_set_is_whole(emoji):
    assert len(emoji) == 3391 and len(set(emoji.names)) == 3391
    assert emoji.classes == ("Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink",
                             "Travel & Places", "Activities", "Objects", "Symbols", "Flags")
    assert len(emoji.subgroups) == len(emoji.labels) == len(emoji)
    assert set(emoji.labels) == set(range(9))


def test_every_subgroup_lies_in_one_class(emoji):
    classes = collections.defaultdict(set)
    for subgroup, label in zip(emoji.subgroups, emoji.labels):
        classes[subgroup].add(label)
    assert all(len(labels) == 1 for labels in classes.values())


def test_the_split_is_of_emoji_not_of_pictures(emoji):
    train, heldout = FluentEmoji("train"), FluentEmoji("heldout")
    assert sorted(train.names + heldout.names) == sorted(emoji.names)
    assert not {base(name) for name in train.names} & {base(name) for name in heldout.names}
    tones = collections.Counter(base(name) for name in heldout.names)
    assert max(tones.values()) == 6  # there are tones to be kept together


def test_every_class_has_its_share_on_both_sides():
    train, heldout = FluentEmoji("train"), FluentEmoji("heldout")
    for label in range(9):
        share = np.sum(heldout.labels == label) / np.sum(np.concatenate([train.labels, heldout.labels]) == label)
        assert 0.05 < share < 0.2


def check_pictures(source, records):
    for i in records:
        image = read_square(source, int(i), 256)
        assert image.shape == (256, 256, 3) and image.dtype == np.uint8
        assert image.std() > 1


def test_pictures_are_256_px(emoji):
    check_pictures(emoji, range(0, len(emoji), 40))


@pytest.mark.slow
def test_every_picture_is_256_px(emoji):
    check_pictures(emoji, range(len(emoji)))


def test_transparency_is_white(emoji):
    corners = np.stack([emoji.read(i)[:2, :2] for i in range(0, len(emoji), 100)])
    assert np.mean(np.all(corners == 255, axis=(1, 2, 3))) > 0.9


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_compositing_is_a_mix_with_white_by_alpha(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.convert(mode).save(tmp_path / "image.png")
    np.testing.assert_array_equal(decode((tmp_path / "image.png").read_bytes())[0, :, 0], [255, 0])


def test_half_transparent_black_is_grey(tmp_path):
    Image.new("RGBA", (1, 1), (0, 0, 0, 128)).save(tmp_path / "image.png")
    np.testing.assert_allclose(decode((tmp_path / "image.png").read_bytes()), 127, atol=1)


def test_a_folder_is_labelled_by_its_class_folders(class_folder):
    source = open_source(str(class_folder))
    assert source.classes == ("animals", "food", "symbols")
    for name, label in zip(source.names, source.labels):
        assert name.split("/")[0] == source.classes[label]
    assert collections.Counter(source.labels.tolist()) == {0: 3, 1: 4, 2: 5}


def test_a_folder_reads_its_own_files(class_folder):
    source = Pictures(class_folder)
    for i in (0, 5, len(source) - 1):
        with Image.open(class_folder / source.names[i]) as image:
            np.testing.assert_array_equal(source.read(i), np.asarray(image))


@pytest.mark.parametrize("content", [b"", b"not a picture", "truncated"], ids=["empty", "text", "truncated"])
def test_a_bad_file_is_an_error_that_names_it(tmp_path, class_folder, content):
    (tmp_path / "food").mkdir()
    whole = (class_folder / "food" / "0.png").read_bytes()
    (tmp_path / "food" / "bad.png").write_bytes(whole[: len(whole) // 2] if content == "truncated" else content)
    with pytest.raises(ValueError, match=r"food/bad\.png") as caught:
        read_square(Pictures(tmp_path), 0, 8)
    assert "\n" not in str(caught.value)


def test_a_folder_without_pictures_is_an_error(tmp_path):
    (tmp_path / "food").mkdir()
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            open_source(str(path))


def test_a_spec_may_name_its_split():
    for split in FluentEmoji.splits:
        assert open_source(f"fluent_emoji:{split}").names == open_source("fluent_emoji", split).names
    assert open_source("fluent_emoji").names == open_source("fluent_emoji:train").names


@pytest.mark.parametrize("spec, split", [("fluent_emoji", "test"), (".", "heldout"), ("fluent_emoji:test", "train")])
def test_an_unknown_split_is_an_error(spec, split):
    wrong = spec.partition(":")[2] or split
    with pytest.raises(ValueError, match=f"`split` \\(={wrong}\\)"):
        open_source(spec, split)


def drawn(order, first, last):
    """The records and labels that examples [first, last) show."""
    examples = [order[n] for n in range(first, last)]
    return [(int(e["image"][0, 0, 0]), int(e["label"])) for e in examples]


def test_an_example_is_a_function_of_its_number_alone(tiny_base):
    tiny_base.data.flip = True
    one, other = (Order(Plain(3, 5), tiny_base, 100) for _ in range(2))
    forwards = [one[n] for n in range(40)]
    backwards = [other[n] for n in reversed(range(40))][::-1]
    for n in range(40):
        np.testing.assert_array_equal(forwards[n]["image"], backwards[n]["image"])
        assert forwards[n]["label"] == backwards[n]["label"] and forwards[n]["index"] == n


@pytest.mark.parametrize("balance", [False, True])
def test_an_example_carries_the_label_of_its_picture(tiny_base, balance):
    tiny_base.data.balance = balance
    source = Plain(3, 5, 2)
    assert all(source.labels[record] == label for record, label in drawn(Order(source, tiny_base, 50), 0, 50))


def test_every_epoch_shows_every_picture_once_in_an_order_of_its_own(tiny_base):
    order = Order(Plain(3, 5, 9), tiny_base, 51)
    epochs = [[record for record, _ in drawn(order, 17 * e, 17 * (e + 1))] for e in range(3)]
    assert all(sorted(epoch) == list(range(17)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_balance_draws_classes_then_pictures_equally(tiny_base):
    tiny_base.data.balance = True
    order, counts = Order(Plain(2, 1, 20), tiny_base, 6000), np.zeros(23)
    for n in range(6000):
        counts[order.record(n)] += 1
    wanted = 2000 / np.repeat([2, 1, 20], [2, 1, 20])
    assert np.sum((counts - wanted) ** 2 / wanted) < 22 + 4 * (2 * 22) ** 0.5  # chi-square, 22 degrees of freedom


def test_balance_passes_over_a_class_without_pictures(tiny_base):
    tiny_base.data.balance = True
    assert {label for _, label in drawn(Order(Plain(2, 0, 3), tiny_base, 50), 0, 50)} == {0, 2}


@pytest.mark.parametrize("balance", [False, True])
def test_another_seed_is_another_order(tiny_base, balance):
    tiny_base.data.balance = balance
    one = drawn(Order(Plain(3, 5, 9), tiny_base, 20), 0, 20)
    tiny_base.train.seed = 1
    assert drawn(Order(Plain(3, 5, 9), tiny_base, 20), 0, 20) != one


def test_flips_are_a_fair_coin_that_is_thrown_anew_every_epoch(tiny_base):
    tiny_base.data.flip = True
    order = Order(Plain(20), tiny_base, 800)
    flipped = np.zeros((40, 20), bool)
    for n in range(800):
        image = order[n]["image"]
        flipped[n // 20, image[0, 0, 0]] = image[0, 0, 2] == 255
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / 800**0.5
    assert np.all(flipped.any(0) & ~flipped.all(0))


def test_a_cache_changes_nothing(tiny_base, class_folder):
    plain = Order(Pictures(class_folder), tiny_base, 30)
    tiny_base.data.cache = True
    cached = Order(Pictures(class_folder), tiny_base, 30)
    for n in range(30):
        np.testing.assert_array_equal(plain[n]["image"], cached[n]["image"])


def test_batches_are_the_examples_in_order_wherever_they_start(tiny_base):
    tiny_base.data.flip, source = True, Plain(3, 5, 9)
    whole = list(batches(source, tiny_base, 0, 40))
    assert [batch["index"].tolist() for batch in whole] == [list(range(n, n + 4)) for n in range(0, 40, 4)]
    for one, other in zip(whole[5:], batches(source, tiny_base, 20, 40), strict=True):
        for name in ("image", "label", "index"):
            np.testing.assert_array_equal(one[name], other[name])


def test_another_batch_size_goes_through_the_same_examples(tiny_base):
    fours = [batch["label"] for batch in batches(Plain(3, 5, 9), tiny_base, 8, 40)]
    tiny_base.train.batch_size = 8
    eights = [batch["label"] for batch in batches(Plain(3, 5, 9), tiny_base, 8, 40)]
    np.testing.assert_array_equal(np.concatenate(fours), np.concatenate(eights))


def test_a_bad_file_in_a_batch_is_one_line_that_names_it(tiny_base, tmp_path):
    (tmp_path / "food").mkdir()
    (tmp_path / "food" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"food/bad\.png") as caught:
        next(batches(Pictures(tmp_path), tiny_base, 0, 40))
    assert "\n" not in str(caught.value)


def test_a_16_bit_picture_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    data = io.BytesIO()
    Image.fromarray(ramp).save(data, format="png")
    read = decode(data.getvalue())
    assert read.shape == (8, 8, 3) and np.abs(read[..., 0] - ramp / 257).max() <= 0.5


def test_a_picture_is_turned_as_its_exif_says():
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # the camera was held upright
    Image.new("RGB", (8, 4)).save(data, format="jpeg", exif=exif)
    assert decode(data.getvalue()).shape == (8, 4, 3)


def test_hidden_folders_are_no_classes(class_folder, tmp_path):
    shutil.copytree(class_folder, tmp_path / "pictures")
    (tmp_path / "pictures" / ".cache").mkdir()
    assert open_source(str(tmp_path / "pictures")).classes == open_source(str(class_folder)).classes


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("first", [0, 20])
def test_the_shares_of_the_processes_are_the_batches(tiny_base, processes, first):
    tiny_base.data.flip, source = True, Plain(3, 5, 9)
    whole = list(batches(source, tiny_base, first, 43))
    shares = [list(batches(source, tiny_base, first, 43, process, processes)) for process in range(processes)]
    assert [batch["index"].tolist() for batch in whole] == [list(range(n, n + 4)) for n in range(first, 40, 4)]
    for batch, *parts in zip(whole, *shares, strict=True):
        for name in ("image", "label", "index"):
            assert all(len(part[name]) == 4 // processes for part in parts)
            np.testing.assert_array_equal(batch[name], np.concatenate([part[name] for part in parts]))


def test_a_batch_that_the_processes_can_not_share_is_an_error(tiny_base):
    with pytest.raises(ValueError, match=r"`train.batch_size` \(=4\) must be divisible by the 3 processes"):
        batches(Plain(3), tiny_base, 0, 40, 0, 3)


class Wide(Plain):
    """Pictures that are twice as wide as high, a shade of grey a column."""

    def read(self, i):
        return np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None], (8, 16, 3))


def test_random_squares_belong_to_the_example_alone(tiny_base):
    tiny_base.data.square = "random"
    one, other = (Order(Wide(20), tiny_base, 900) for _ in range(2))
    left = np.array([one[n]["image"][0, 0, 0] for n in range(900)])
    assert left.tolist() == [other[n]["image"][0, 0, 0] for n in reversed(range(900))][::-1]
    counts = np.bincount(left, minlength=9)
    assert len(counts) == 9 and np.sum((counts - 100) ** 2 / 100) < 8 + 4 * (2 * 8) ** 0.5  # chi-square
    by_record = [{left[n] for n in range(900) if one.record(n) == record} for record in range(20)]
    assert all(len(places) > 3 for places in by_record)  # drawn anew every epoch


def test_squares_and_flips_are_drawn_apart(tiny_base):
    tiny_base.data.square, tiny_base.data.flip = "random", True
    order = Order(Wide(20), tiny_base, 600)
    images = [order[n]["image"][0, :2, 0].astype(int) for n in range(600)]
    flipped = np.array([image[1] < image[0] for image in images])
    left = np.array([min(image) - 6 * (image[1] < image[0]) for image in images])
    assert abs(np.corrcoef(flipped, left)[0, 1]) < 4 / 600**0.5


class Holed(Plain):
    """Some of its pictures can not be read."""

    def __init__(self, holes, *counts):
        super().__init__(*counts)
        self.holes, self.tried = holes, collections.Counter()

    def read(self, i):
        self.tried[i] += 1
        if i in self.holes:
            raise OSError("broken")
        return super().read(i)


@pytest.mark.parametrize("cache", [False, True])
def test_a_record_that_fails_is_replaced_by_the_next_good_one_and_listed(tiny_base, cache):
    tiny_base.data.cache, bad = cache, {}
    source, whole = Holed({2, 3, 8}, 3, 6), Plain(3, 6)
    shown = drawn(Order(source, tiny_base, 90, bad), 0, 90)
    instead = {2: 4, 3: 4, 8: 0}
    for n, (record, label) in enumerate(shown):
        wanted = Order(whole, tiny_base, 90).record(n)
        assert record == instead.get(wanted, wanted) and label == whole.labels[record]
    assert bad == {f"{i}.png": "OSError: broken" for i in (2, 3, 8)}
    assert all(source.tried[i] == 1 for i in (2, 3, 8))

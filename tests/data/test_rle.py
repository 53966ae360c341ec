"""Run-length text against a definition written out pixel by pixel, and against the competition's own files."""

import csv
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from kit.data import rle

REAL = os.environ.get("KIT_TEST_DATA")


def slow_encode(mask):
    """The competition's text, step by step: pixels from top to bottom, then left to right, numbered from 1."""
    height, width = mask.shape
    pixels = [mask[row, column] for column in range(width) for row in range(height)]
    runs, number = [], 0
    while number < len(pixels):
        if pixels[number]:
            first = number
            while number < len(pixels) and pixels[number]:
                number += 1
            runs.append(f"{first + 1} {number - first}")
        number += 1
    return " ".join(runs)


def slow_decode(text, shape):
    height, width = shape
    numbers = [int(word) for word in text.split()]
    salt = {start + k for start, length in zip(numbers[::2], numbers[1::2], strict=True) for k in range(length)}
    return np.array([[column * height + row + 1 in salt for column in range(width)] for row in range(height)], bool)


masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
batches = hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7))


@settings(deadline=None)
@given(masks)
def test_one_mask_agrees_with_the_slow_definition(mask):
    text = rle.encode(mask)
    assert text == slow_encode(mask)
    decoded = rle.decode(text, mask.shape)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, slow_decode(text, mask.shape))
    np.testing.assert_array_equal(decoded, mask)


@settings(deadline=None)
@given(batches)
def test_a_batch_agrees_with_the_slow_definition(batch):
    texts = rle.encode_many(batch)
    assert texts == [slow_encode(mask) for mask in batch]
    np.testing.assert_array_equal(rle.decode_many(texts, batch.shape[1:]), batch)


@settings(deadline=None)
@given(masks, st.data())
def test_decode_reads_runs_that_touch(mask, data):
    """'1 5' may as well be written '1 2 3 3': cut every run at a random place."""
    runs = []
    numbers = [int(word) for word in slow_encode(mask).split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        cut = data.draw(st.integers(1, length))
        runs += [(start, cut)] + ([(start + cut, length - cut)] if cut < length else [])
    text = " ".join(f"{start} {length}" for start, length in runs)
    np.testing.assert_array_equal(rle.decode(text, mask.shape), mask)


def test_known_answers():
    assert rle.encode(np.zeros((101, 101), bool)) == ""
    assert rle.encode(np.ones((101, 101), bool)) == "1 10201"
    top_right = np.zeros((101, 101), bool)
    top_right[0, 100] = True
    assert rle.encode(top_right) == "10101 1"  # 100 full columns of 101 pixels lie before it
    assert rle.encode(np.array([[1, 0, 0], [1, 1, 0]])) == "1 2 4 1"
    assert not rle.decode("").any()
    assert rle.decode("").shape == (101, 101)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_encode_takes_masks_as_they_lie_in_files(dtype):
    mask = np.zeros((3, 4), dtype)
    mask[1, 2] = np.iinfo(dtype).max
    assert rle.encode(mask) == "8 1"


def test_more_masks_than_one_step_takes():
    batch = np.random.default_rng(0).random((700, 5, 4)) < 0.5
    batch[255:258] = False
    texts = rle.encode_many(batch)
    assert texts == [slow_encode(mask) for mask in batch]
    np.testing.assert_array_equal(rle.decode_many(texts, (5, 4)), batch)


def test_no_masks_at_all():
    assert rle.encode_many(np.zeros((0, 101, 101), bool)) == []
    assert rle.decode_many([]).shape == (0, 101, 101)


def test_decode_accepts_any_blanks():
    np.testing.assert_array_equal(rle.decode("  1 2\t 4   1\n", (2, 3)), rle.decode("1 2 4 1", (2, 3)))
    assert not rle.decode(" \n ", (2, 3)).any()


BAD = [
    ("1", "odd"),
    ("1 2 3", "odd"),
    ("nan", "'nan' is no number"),
    ("1.0 2", "'1.0' is no number"),
    ("1 +2", "whole numbers"),
    ("1_0 2", "whole numbers"),
    ("٣ 1", "whole numbers"),  # int() would take an Arabic three
    ("1\u00a02", "whole numbers"),  # a blank that is not one
    ("1 99999999999999999999999", "whole numbers"),
    ("0 1", "'0 1' starts before pixel 1"),
    ("-3 2", "'-3 2' starts before pixel 1"),
    ("1 0", "'1 0' has no pixels"),
    ("1 -2", "'1 -2' has no pixels"),
    ("7 1", "ends past the last pixel, 6"),
    ("6 2", "ends past the last pixel, 6"),
    ("2 999999999999999999", "ends past the last pixel, 6"),
    ("1 2 2 1", "'2 1' overlaps or precedes the run '1 2'"),
    ("4 1 1 2", "'1 2' overlaps or precedes the run '4 1'"),
]


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_decode_says_what_is_wrong(text, reason):
    with pytest.raises(ValueError, match=reason.replace("+", r"\+")):
        rle.decode(text, (2, 3))


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_decode_many_names_the_first_bad_text(text, reason):
    with pytest.raises(rle.RunLengthError, match=r"^mask 2: ") as caught:
        rle.decode_many(["", "1 6", text, "6 1", "0 0"], (2, 3))
    assert caught.value.index == 2
    assert reason in caught.value.reason


def is_mask(text, size):
    """Pairs of whole numbers that, written out pixel by pixel, only ever go forward inside the tile."""
    words = text.split(" ")
    words = [word for word in words if word]
    if len(words) % 2 or any(set(word) - set("0123456789") for word in words):
        return False
    pairs = [(int(start), int(length)) for start, length in zip(words[::2], words[1::2], strict=True)]
    if any(length < 1 or length > size for _, length in pairs):
        return False
    pixels = [start + k for start, length in pairs for k in range(length)]
    return pixels == sorted(set(pixels)) and all(1 <= pixel <= size for pixel in pixels)


words = st.sampled_from(["0", "1", "2", "3", "5", "6", "7", "11", "12", "13", "40", "-1", "x"])


@settings(deadline=None)
@given(st.lists(st.lists(words, max_size=6).map(" ".join), max_size=4))
def test_exactly_the_texts_that_are_masks_are_accepted(texts):
    bad = [index for index, text in enumerate(texts) if not is_mask(text, 12)]
    if bad:
        with pytest.raises(rle.RunLengthError) as caught:
            rle.decode_many(texts, (3, 4))
        assert caught.value.index == bad[0]
    else:
        expected = np.array([slow_decode(text, (3, 4)) for text in texts], bool).reshape(-1, 3, 4)
        np.testing.assert_array_equal(rle.decode_many(texts, (3, 4)), expected)


def test_a_missing_value_from_pandas_is_named():
    with pytest.raises(rle.RunLengthError, match=r"mask 1: nan is no text.*keep_default_na=False"):
        rle.decode_many(["", float("nan")])


def test_encode_refuses_probabilities_and_single_masks():
    with pytest.raises(ValueError, match="threshold probabilities first"):
        rle.encode_many(np.full((2, 3, 3), 0.2))
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        rle.encode_many(np.zeros((3, 3), bool))


@pytest.mark.skipif(not REAL, reason="KIT_TEST_DATA names no folder of real tiles")
def test_real_masks_and_their_texts_are_each_other():
    with open(Path(REAL, "train.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    with zipfile.ZipFile(Path(REAL, "train.zip")) as archive:
        pictures = [Image.open(io.BytesIO(archive.read(f"masks/{row['id']}.png"))) for row in rows]
        real = np.stack([np.asarray(picture) > 0 for picture in pictures])
    texts = [row["rle_mask"] for row in rows]
    assert len(texts) >= 3000
    assert rle.encode_many(real) == texts
    np.testing.assert_array_equal(rle.decode_many(texts), real)

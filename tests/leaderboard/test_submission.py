"""Submissions: what is built passes, is what the competition expects, and every way of spoiling it is named."""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kit.data.competition import TGS
from kit.errors import InputError
from kit.leaderboard import submission
from kit.leaderboard.submission import SubmissionError, validate

REAL = os.environ.get("KIT_TEST_DATA")
IDS = ["0a", "1b", "2c", "3d", "4e"]
GOOD = "id,rle_mask\n0a,1 1\n1b,\n2c,5 10 20 3\n3d,10201 1\n4e,1 10201\n"
SMALL = replace(TGS, tile_shape=(2, 3))


def saved(folder, content):
    path = folder / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "sample_submission.csv"
    path.write_text("id,rle_mask\n" + "".join(f"{name},1 1\n" for name in IDS))
    return path


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("0a,1 1", '"0a","1 1"'),
        GOOD.replace("5 10 20 3", "5 10 15 3"),  # runs that touch do not overlap
    ],
    ids=["plain", "no last line end", "CRLF", "quotes", "touching runs"],
)
def test_sound_submissions_pass_whatever_they_are_held_against(tmp_path, sample, content):
    path = saved(tmp_path, content)
    for against in (sample, str(sample), IDS, np.array(IDS), TGS):
        assert validate(path, against) is None


SPOILED = {
    "columns": (GOOD.replace("rle_mask", "mask"), r"line 1: the columns are 'id,mask': make them 'id,rle_mask'"),
    "no header": (GOOD.removeprefix("id,rle_mask\n"), r"line 1: the columns are '0a,1 1'"),
    "third cell": (GOOD.replace("1b,", "1b,1 2,7"), "line 3, 3 cells"),
    "one cell": (GOOD.replace("1b,", "1b"), "line 3, 1 cells"),
    "blank line": (GOOD.replace("2c", "\n2c"), "line 4, 0 cells: .* delete the line"),
    "order": (
        GOOD.replace("1b", "?").replace("2c", "1b").replace("?", "2c"),
        "line 3, id '2c' .* sample has '1b': put",
    ),
    "missing first": (GOOD.replace("0a,1 1\n", ""), "line 2, id '0a' is missing: add its line before that of '1b'"),
    "missing last": (GOOD.replace("4e,1 10201\n", ""), "line 6, id '4e' is missing: add its line"),
    "missing all": ("id,rle_mask\n", "line 2, id '0a' is missing"),
    "extra": (GOOD.replace("2c", "5f,\n2c"), "line 4, id '5f' is not in the sample: delete"),
    "extra at the end": (GOOD + "5f,\n", "line 7, id '5f' is not in the sample"),
    "blanks round an id": (GOOD.replace("2c", "2c "), "line 4, id '2c ' is not in the sample"),
    "twice": (GOOD.replace("2c", "1b,\n2c"), "line 4, id '1b' is here for the second time: delete"),
    "twice at the end": (GOOD + "0a,\n", "line 7, id '0a' is here for the second time"),
    "overlapping": (GOOD.replace("20 3", "14 3"), "line 4, id '2c': the run '14 3' overlaps .* '5 10': sort"),
    "unsorted": (GOOD.replace("5 10 20 3", "20 3 5 10"), "line 4, id '2c': the run '5 10' overlaps or precedes"),
    "past the end": (GOOD.replace("10201 1", "10201 2"), "line 5, id '3d': the run '10201 2' ends past .* 10201"),
    "pixel 0": (GOOD.replace("1 1\n", "0 1\n", 1), "line 2, id '0a': the run '0 1' starts before pixel 1"),
    "length 0": (GOOD.replace("20 3", "20 0"), "line 4, id '2c': the run '20 0' has no pixels"),
    "odd": (GOOD.replace("20 3", "20"), "line 4, id '2c': 3 numbers, which is odd"),
    "decimal": (GOOD.replace("20 3", "20 3.0"), r"line 4, id '2c': '3\.0' is no number of pixels"),
    "nan": (GOOD.replace("1b,", "1b,nan"), "line 3, id '1b': 'nan' is no number .* empty mask as nothing"),
    "NaN": (GOOD.replace("1b,", "1b,NaN"), "line 3, id '1b': 'NaN' is no number"),
    "empty": ("", "is empty: build it again"),
    "mark": (b"\xef\xbb\xbf" + GOOD.encode(), "line 1 begins with a byte order mark: save the file as UTF-8 without"),
    "UTF-16": (GOOD.encode("utf-16"), "line 1 is not UTF-8"),
    "Latin 1": (GOOD.replace("2c", "2ç").encode("latin-1"), "line 4 is not UTF-8: save"),
    "open quote": (GOOD.replace("2c,", '2c,"'), "is not CSV .*: write id,runs without quotes"),
}


@pytest.mark.parametrize(("content", "message"), SPOILED.values(), ids=SPOILED)
def test_the_first_bad_line_is_named_with_the_mend(tmp_path, sample, content, message):
    path = saved(tmp_path, content)
    with pytest.raises(SubmissionError, match=message) as caught:
        validate(path, sample)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ([("1b,", "1b,0 1"), ("3d,", "5f,")], "line 3, id '1b': the run"),
        ([("1b,", "5f,"), ("2c,5", "2c,0")], "line 3, id '5f' is not"),
        ([("1b,", "1b,nan"), ("2c,5", "2c,0")], "line 3, id '1b': 'nan'"),
        ([("1b,", "1b,x"), ("4e,1 10201\n", "")], "line 3, id '1b': 'x'"),
        ([("1b,", "1b,,"), ("0a,1 1", "0a,1")], "line 2, id '0a': 1 numbers"),
    ],
)
def test_of_several_bad_lines_the_first_is_named(tmp_path, sample, change, line):
    content = GOOD
    for old, new in change:
        content = content.replace(old, new)
    with pytest.raises(SubmissionError, match=line):
        validate(saved(tmp_path, content), sample)


def test_a_cell_over_two_lines_is_refused_where_it_begins(tmp_path):
    with pytest.raises(SubmissionError, match="line 2: a quoted cell spans lines"):
        validate(saved(tmp_path, 'id,rle_mask\n0a,"1 2\n5 1"\n1b,x\n'), ["0a", "1b"])


def test_with_a_competition_alone_ids_may_be_any_but_not_twice(tmp_path):
    validate(saved(tmp_path, "id,rle_mask\nz,1 6\na,\n"), SMALL)
    with pytest.raises(SubmissionError, match="line 4, id 'z' is here for the second time"):
        validate(saved(tmp_path, "id,rle_mask\nz,\na,\nz,\n"), SMALL)
    with pytest.raises(SubmissionError, match="line 2, id 'z': the run '1 7' ends past the last pixel, 6"):
        validate(saved(tmp_path, "id,rle_mask\nz,1 7\n"), SMALL)
    with pytest.raises(SubmissionError, match="the columns are 'id,rle_mask': make them 'img,pixels'"):
        validate(saved(tmp_path, GOOD), replace(TGS, id_column="img", mask_column="pixels"))


def test_files_that_are_none(tmp_path, sample):
    with pytest.raises(SubmissionError, match=r"none\.csv is missing: check the path"):
        validate(tmp_path / "none.csv", sample)
    with pytest.raises(SubmissionError, match=r"cannot be read .*: give the path of a CSV file"):
        validate(tmp_path, sample)
    with pytest.raises(SubmissionError, match=r"sample\.csv is missing"):
        validate(saved(tmp_path, GOOD), tmp_path / "sample.csv")


def some_masks(count=5):
    masks = np.random.default_rng(0).random((count, 101, 101)) < 0.3
    masks[1] = False
    return masks


def test_what_is_written_is_sound_in_the_samples_order_and_reads_back(tmp_path, sample):
    masks, shuffled = some_masks(), [3, 0, 4, 2, 1]
    path = tmp_path / "new folder" / "mine.csv"
    submission.write(path, [IDS[index] for index in shuffled], masks[shuffled], sample)
    validate(path, sample)
    assert [entry.name for entry in path.parent.iterdir()] == ["mine.csv"]
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert table["id"].tolist() == IDS
    for text, mask in zip(table["rle_mask"], masks, strict=True):
        drawn = np.zeros(101 * 101, bool)
        numbers = [int(word) for word in text.split()]
        for start, length in zip(numbers[::2], numbers[1::2], strict=True):
            drawn[start - 1 : start - 1 + length] = True
        np.testing.assert_array_equal(drawn.reshape(101, 101, order="F"), mask)


def test_a_known_submission_to_the_byte():
    masks = np.array([[[0, 0, 1], [1, 0, 1]], [[0, 0, 0], [0, 0, 0]]], bool)
    assert submission.build(["b", "a"], masks, SMALL) == "id,rle_mask\nb,2 1 5 2\na,\n"


def test_a_refused_submission_leaves_the_old_file(tmp_path, sample):
    path = saved(tmp_path, "old")
    with pytest.raises(SubmissionError):
        submission.write(path, IDS[:-1], some_masks()[:-1], sample)
    assert path.read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine.csv", "sample_submission.csv"]


@pytest.mark.parametrize(
    ("ids", "masks", "message"),
    [
        (IDS[:4], some_masks(4), "id '4e' of the sample has no mask: predict every test tile"),
        ([*IDS, "5f"], some_masks(6), "id '5f' is not in the sample"),
        ([*IDS[:4], "0a"], some_masks(), "id '0a' has 2 masks"),
        (IDS, some_masks(4), r"masks of shape \(4, 101, 101\) for 5 ids"),
        (IDS, np.zeros((5, 128, 128), bool), r"one mask of \(101, 101\), padding cut off"),
    ],
)
def test_build_refuses_what_does_not_fit_the_sample(sample, ids, masks, message):
    with pytest.raises(SubmissionError, match=message):
        submission.build(ids, masks, sample)


def test_the_hash_is_of_the_rows_not_of_their_order_or_line_ends():
    header, *rows = GOOD.splitlines()
    same = [GOOD, "\n".join([header, *reversed(rows)]), GOOD.replace("\n", "\r\n"), GOOD.replace("1b", '"1b"')]
    assert len({submission.content_hash(text) for text in same}) == 1
    assert submission.content_hash(GOOD.replace("20 3", "20 4")) != submission.content_hash(GOOD)
    assert submission.content_hash(GOOD.replace("0a", "0z")) != submission.content_hash(GOOD)


def test_file_names():
    before = f"{datetime.now(UTC):%Y-%m-%d}"
    name = submission.file_name("my run/2", GOOD)
    after = f"{datetime.now(UTC):%Y-%m-%d}"
    day, run, digest = re.fullmatch(r"([-\d]+)_(.+)_([0-9a-f]{8})\.csv", name).groups()
    assert before <= day <= after
    assert run == "my-run-2"
    assert submission.content_hash(GOOD).startswith(digest)
    assert submission.file_name("my run/2", GOOD.replace("20 3", "20 4")) != name


@pytest.mark.skipif(not REAL, reason="KIT_TEST_DATA names no folder of real tiles")
def test_kaggles_own_files_are_sound():
    validate(Path(REAL, "sample_submission.csv"), Path(REAL, "sample_submission.csv"))
    validate(Path(REAL, "train.csv"), TGS)
    with pytest.raises(SubmissionError, match="line 2, id '000e218f21' is not in the sample"):
        validate(Path(REAL, "train.csv"), Path(REAL, "sample_submission.csv"))

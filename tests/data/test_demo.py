"""Demo data: the competition's layout, labels drawn as on Kaggle, a known mosaic, and a likeness in figures."""

import csv
import hashlib
import io
import multiprocessing
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

from kit.data import demo, tiles
from kit.errors import InputError

REAL = os.environ.get("KIT_TEST_DATA")
N_TRAIN, N_TEST = 400, 200
FILES = {
    "train.csv",
    "depths.csv",
    "sample_submission.csv",
    "train.zip",
    "test.zip",
    "demo_mosaic.csv",
    "demo_answers.csv",
}


def rows(path):
    with path.open(newline="") as file:
        header, *body = csv.reader(file)
    return header, body


def decode(text):
    """The competition's text: pixels count from 1, down the columns."""
    flat = np.zeros(101 * 101, bool)
    numbers = [int(word) for word in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(101, 101).T


def pictures(archive, folder):
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.startswith(folder)]
        return {Path(name).stem: np.asarray(Image.open(io.BytesIO(file.read(name)))) for name in names}


def digest(folder):
    files = (path for path in folder.iterdir() if path.name != demo.LOCK)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "demo"
    demo.write(path, N_TRAIN, N_TEST, seed=0)
    return path


@pytest.fixture(scope="module")
def data(folder):
    """images, masks: {id: (101, 101)}; train: the train ids; place: {id: (mosaic, row, col)}; pairs right and below."""
    images = pictures(folder / "train.zip", "images/")
    train = set(images)
    images |= pictures(folder / "test.zip", "images/")
    texts = dict(rows(folder / "train.csv")[1] + rows(folder / "demo_answers.csv")[1])
    place = {name: tuple(map(int, rest)) for name, *rest in rows(folder / "demo_mosaic.csv")[1]}
    at = {where: name for name, where in place.items()}
    right = [(at[m, r, c], at[m, r, c + 1]) for m, r, c in at if (m, r, c + 1) in at]
    below = [(at[m, r, c], at[m, r + 1, c]) for m, r, c in at if (m, r + 1, c) in at]
    masks = {name: decode(text) for name, text in texts.items()}
    return SimpleNamespace(images=images, masks=masks, train=train, place=place, right=right, below=below)


def test_every_file_and_column_as_kaggle_names_them(folder):
    assert {path.name for path in folder.iterdir()} == FILES | {demo.LOCK}
    for name in ("train.csv", "demo_answers.csv", "sample_submission.csv"):
        assert rows(folder / name)[0] == ["id", "rle_mask"]
    assert rows(folder / "depths.csv")[0] == ["id", "z"]
    assert rows(folder / "demo_mosaic.csv")[0] == ["id", "mosaic", "row", "col"]
    assert {text for _, text in rows(folder / "sample_submission.csv")[1]} == {"1 1"}


def test_every_id_is_in_the_right_files_once(folder):
    def ids(name):
        return [row[0] for row in rows(folder / name)[1]]

    train, test = ids("train.csv"), ids("sample_submission.csv")
    assert (len(set(train)), len(set(test))) == (len(train), len(test)) == (N_TRAIN, N_TEST)
    assert all(len(name) == 10 and int(name, 16) >= 0 and name == name.lower() for name in train + test)
    assert sorted(ids("demo_answers.csv")) == sorted(test)
    assert sorted(ids("depths.csv")) == sorted(ids("demo_mosaic.csv")) == sorted(train + test)
    with zipfile.ZipFile(folder / "train.zip") as archive:
        assert sorted(archive.namelist()) == sorted(
            f"{kind}/{name}.png" for kind in ("images", "masks") for name in train
        )
    with zipfile.ZipFile(folder / "test.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"images/{name}.png" for name in test)


def test_pictures_are_the_competition_s(folder, data):
    masks = pictures(folder / "train.zip", "masks/")
    assert all(image.shape == (101, 101) and image.dtype == np.uint8 for image in data.images.values())
    assert all(mask.dtype == np.uint16 and set(np.unique(mask)) <= {0, 65535} for mask in masks.values())
    assert all(np.array_equal(mask > 0, data.masks[name]) for name, mask in masks.items())


def test_same_seed_same_bytes(folder, tmp_path):
    demo.write(tmp_path / "a", 12, 6, seed=3)
    demo.write(tmp_path / "b", 12, 6, seed=3)
    demo.write(tmp_path / "c", 12, 6, seed=4)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert not set(digest(tmp_path / "a").values()) & set(digest(tmp_path / "c").values())


@pytest.mark.slow
def test_two_writers_at_once_leave_one_whole_set(tmp_path):
    demo.write(tmp_path / "alone", 12, 6, seed=3)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(demo.write, [(tmp_path / "both", 12, 6, 3)] * 4)
    assert digest(tmp_path / "both") == digest(tmp_path / "alone")


def test_any_size_from_four(tmp_path):
    for n_train, n_test in ((4, 4), (4, 5), (9, 4)):
        demo.write(tmp_path, n_train, n_test, seed=0)
        assert len(rows(tmp_path / "train.csv")[1]) == n_train
        assert len(rows(tmp_path / "demo_answers.csv")[1]) == n_test


def test_the_kit_reads_it(folder, data):
    read = tiles.load(folder, progress=False)
    assert set(read.train_ids) == data.train
    assert all(np.array_equal(mask, data.masks[name]) for name, mask in zip(read.train_ids, read.masks, strict=True))
    assert np.isfinite(read.depth("train")).all()
    assert np.isfinite(read.depth("test")).all()


def test_writes_over_its_own_data_only(tmp_path):
    demo.write(tmp_path, 4, 4, seed=0)
    before = digest(tmp_path)
    (tmp_path / ".kit").mkdir()
    demo.write(tmp_path, 5, 4, seed=0)
    (tmp_path / ".kit").rmdir()
    after = digest(tmp_path)
    assert after.keys() == before.keys()
    assert after != before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.txt.*new or an empty folder"):
        demo.write(tmp_path, 6, 4, seed=0)
    (tmp_path / "thesis.txt").unlink()
    assert digest(tmp_path) == after


def test_never_touches_the_competition_s_own_files(tmp_path):
    (tmp_path / "train.csv").write_text("id,rle_mask\n")
    with pytest.raises(InputError, match=r"train\.csv"):
        demo.write(tmp_path, 4, 4, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]
    with pytest.raises(InputError, match="is a file"):
        demo.write(tmp_path / "train.csv", 4, 4, seed=0)


def test_too_few_tiles_are_refused(tmp_path):
    for n_train, n_test in ((3, 4), (4, 3), (0, 0), (-1, 9)):
        with pytest.raises(InputError, match="at least 4"):
            demo.write(tmp_path / "new", n_train, n_test, seed=0)
    assert not (tmp_path / "new").exists()


def test_a_failed_write_leaves_the_old_data(tmp_path, monkeypatch):
    demo.write(tmp_path, 4, 4, seed=0)
    before = digest(tmp_path)

    monkeypatch.setattr(demo, "_depths", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        demo.write(tmp_path, 8, 8, seed=1)
    assert digest(tmp_path) == before


def test_two_percent_are_black_and_empty_in_both_splits(data):
    constant = {name for name, image in data.images.items() if image.min() == image.max()}
    assert len(constant & data.train) == 8
    assert len(constant - data.train) == 4
    assert not any(data.images[name].any() or data.masks[name].any() for name in constant)


def test_coverage_is_spread_as_on_kaggle(data):
    """Kaggle: 39 % empty, none full; of the others the quartiles .11, .36, .67 and 6.9 % of at most 100 pixels."""
    pixels = np.array([mask.sum() for mask in data.masks.values()])
    salt = pixels[pixels > 0]
    assert np.mean(pixels == 0) == pytest.approx(0.39, abs=0.06)
    assert pixels.max() < 101 * 101
    assert np.quantile(salt / 101**2, [0.25, 0.5, 0.75]) == pytest.approx([0.114, 0.36, 0.666], abs=0.1)
    assert 0.02 < np.mean(salt <= 100) < 0.12
    assert any(mask.any() and (mask == mask[0]).all() for mask in data.masks.values())  # a vertical one


def test_sections_are_labelled_from_the_top_down(data):
    """In a section salt has no lower edge but its tile's: below it is salt again, or empty where all would be salt."""
    caps, verticals = 0, []
    for upper, lower in data.below:
        above, under = data.masks[upper], data.masks[lower]
        assert (np.diff(above.astype(int), axis=0) >= 0).all()
        if above[-1].all():
            caps += 1
            assert not under.any()
        elif under.any():
            assert (above[-1] <= under).all()
            if (above == above[0]).all() and above.any():
                verticals.append(np.array_equal(above, under))
    assert min(caps, len(verticals)) > 5
    assert np.mean(verticals) > 0.8  # the others have another body beginning beside them


def test_depths_hint_at_emptiness_and_at_nothing_else(folder, data):
    depth = {name: int(z) for name, z in rows(folder / "depths.csv")[1]}
    z, empty = np.array(list(depth.values())), np.array([not data.masks[name].any() for name in depth])
    assert 50 <= z.min() <= z.max() <= 959
    assert empty[z <= 240].mean() > empty[z > 240].mean() + 0.15
    beside = np.median([abs(depth[a] - depth[b]) for a, b in data.right + data.below])
    anywhere = np.median(np.abs(z - np.random.default_rng(0).permutation(z)))
    assert beside > 0.8 * anywhere


def likeness(edges, others):
    """Correlation of paired edges: blind to each tile's own brightness and contrast."""
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(edges, others, strict=True)])


def test_neighbours_touch_and_strangers_do_not(data):
    rng = np.random.default_rng(0)
    for pairs, turn in ((data.right, np.transpose), (data.below, np.asarray)):
        first, second = [turn(data.images[a])[-1] for a, _ in pairs], [turn(data.images[b])[0] for _, b in pairs]
        strangers = [second[k] for k in rng.permutation(len(second))]
        assert len(pairs) > 150
        assert np.quantile(likeness(first, second), 0.1) > 0.6
        assert np.quantile(likeness(first, strangers), 0.9) < 0.4


def test_mosaics_mix_train_and_test_and_leave_lone_tiles(data):
    members = {}
    for name, (mosaic, row, col) in data.place.items():
        members.setdefault(mosaic, {})[row, col] = name
    sizes = np.array([len(mosaic) for mosaic in members.values()])
    assert sum(sizes) == len(data.place)
    assert 0.3 < sizes[sizes == 1].sum() / sizes.sum() < 0.7
    assert sizes.max() >= 12
    for mosaic in members.values():
        assert len(mosaic) == (1 + max(r for r, _ in mosaic)) * (1 + max(c for _, c in mosaic))
        if len(mosaic) >= 12:
            assert 0 < len(data.train & set(mosaic.values())) < len(mosaic)


def test_seams_are_as_hard_as_the_real_ones(data):
    """On the real mosaics the grey step is 19.6 across a seam, 10.6 between rows or columns inside a tile."""
    images = {name: image.astype(int) for name, image in data.images.items()}
    across = [np.abs(images[a][:, -1] - images[b][:, 0]).mean() for a, b in data.right]
    across += [np.abs(images[a][-1] - images[b][0]).mean() for a, b in data.below]
    placed = {name for pair in data.right + data.below for name in pair}
    within = [np.abs(np.diff(images[name], axis=axis)).mean() for name in placed for axis in (0, 1)]
    assert 17 < np.mean(across) < 22
    assert 9 < np.mean(within) < 12


def mean_precision(predicted, true):
    union = (predicted | true).sum((1, 2))
    overlap = np.where(union > 0, (predicted & true).sum((1, 2)) / np.maximum(union, 1), 1)
    return np.mean([overlap > threshold for threshold in np.arange(0.5, 1, 0.05)])


def test_no_threshold_finds_the_salt(data):
    """Neither brightness nor local contrast gains on "no salt anywhere", though quiet ground is a hint."""
    some = sorted(data.images)[::3]
    images = np.stack([data.images[name] for name in some]).astype(np.float32)
    masks = np.stack([data.masks[name] for name in some])
    mean, square = (uniform_filter(x, (0, 11, 11)) for x in (images, images**2))
    contrast = np.sqrt(np.maximum(square - mean**2, 0))
    nothing = mean_precision(np.zeros_like(masks), masks)
    for feature in (gaussian_filter(images, (0, 3, 3)), contrast):
        for sign in (1, -1):
            cuts = np.quantile(sign * feature, np.linspace(0.02, 0.98, 9))
            assert max(mean_precision(sign * feature > cut, masks) for cut in cuts) < nothing + 0.05
    quiet = contrast < np.median(contrast)
    assert masks[quiet].mean() > 1.2 * masks[~quiet].mean()


def figures(images):
    """Grey mean and sd, mean steps down and across, correlation of pixels 4 and 12 apart down and across."""
    x = images[np.ptp(images, axis=(1, 2)) > 0].astype(np.float32)
    steps = [np.abs(np.diff(x, axis=axis)).mean() for axis in (1, 2)]
    z = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
    down, over = [(z[:, k:] * z[:, :-k]).mean() for k in (4, 12)], [(z[..., k:] * z[..., :-k]).mean() for k in (4, 12)]
    return [x.mean(), x.std()], steps, down + over


@pytest.mark.skipif(not REAL, reason="KIT_TEST_DATA names no folder with the real data")
def test_figures_agree_with_the_real_tiles(data):
    real = pictures(Path(REAL) / "train.zip", "images/").values()  # some in colour with equal channels
    grey, steps, correlation = figures(np.stack([image.reshape(101, 101, -1)[..., 0] for image in real]))
    found = figures(np.stack(list(data.images.values())))
    assert found[0] == pytest.approx(grey, abs=6)
    assert found[1] == pytest.approx(steps, rel=0.25)
    assert found[2] == pytest.approx(correlation, abs=0.15)

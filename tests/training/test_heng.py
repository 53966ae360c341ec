"""Heng's augmentation, and what others made of it, against formulas: how often what is done, and how far."""

import albumentations as A
import numpy as np
import pytest

from kit.training.augment import Augmenter, Cutout, Elastic, bes, heng

N = 1200
LEVELS = np.array([40, 80, 120, 160, 200])


def shares(kinds):
    return {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}


def close(found, expected):
    """Shares of N draws within four standard deviations."""
    return found.keys() == expected.keys() and all(
        abs(found[kind] - p) < 4 * np.sqrt(p * (1 - p) / N) for kind, p in expected.items()
    )


def level_curves(name):
    """What becomes of LEVELS in N draws, which no tile influences; shapes leave constant tiles alone."""
    augment, mask = Augmenter(name, 0), np.zeros((32, 32), np.uint8)
    tiles = [np.full((32, 32), level, np.uint8) for level in LEVELS]
    return np.array([[int(augment(tile, mask, 0, item)[0][16, 16]) for tile in tiles] for item in range(N)])


def kind_of_curve(curve):
    """Which formula explains five levels, and by which parameter."""
    if (curve == LEVELS).all():
        return "none", 0.0
    exact = curve + 0.5  # on average, as the fraction of a level is cut off
    logs = np.log(LEVELS / 255)
    shift, factor, gamma = (
        (exact - LEVELS).mean(),
        exact @ LEVELS / (LEVELS @ LEVELS),
        np.log(exact / 255) @ logs / (logs @ logs),
    )
    errors = {
        ("brightness", shift / 255): abs(exact - LEVELS - shift).max(),
        ("multiply", factor - 1): abs(exact - LEVELS * factor).max(),
        ("gamma", gamma - 1): abs(exact - 255 * (LEVELS / 255) ** gamma).max(),
    }
    return min(errors, key=errors.get) if min(errors.values()) < 1 else ("unexplained", 0.0)


@pytest.mark.slow
def test_half_of_the_tiles_get_another_brightness_factor_or_gamma():
    found = [kind_of_curve(curve) for curve in level_curves("heng")]
    by_kind = {kind: np.array([value for name, value in found if name == kind]) for kind, _ in found}
    assert by_kind.keys() == {"none", "brightness", "multiply", "gamma"}
    for kind, limit in (("brightness", 0.1), ("multiply", 0.08), ("gamma", 0.08)):
        values = by_kind[kind]
        assert 0.9 * limit < values.max() < limit + 0.01
        assert -0.9 * limit > values.min() > -limit - 0.01
        assert 0.12 < len(values) / N < 0.2  # a sixth, and some too small to be told from none or another
        assert np.isclose(np.square(values).mean(), limit**2 / 3, rtol=0.25)  # a uniform distribution's
    assert 0.45 < len(by_kind["none"]) / N < 0.6


def sources(pipeline, n):
    """From where each pixel comes, in n draws: (n, 101, 101, 2) columns and rows, to half a pixel."""
    rows, columns = np.mgrid[:101, :101].astype(np.uint8)
    ramps = np.stack([2 * columns, 2 * rows, 0 * rows], 2)
    compose = A.Compose(pipeline, seed=0)
    return np.array([compose(image=ramps)["image"][..., :2] / 2 for _ in range(n)], np.float16)  # exact, and small


def affine(source):
    """The best affine map (2, 3) of (column, row) around the tile's middle, and its largest error there, in pixels."""
    y, x = np.mgrid[30:71, 30:71].reshape(2, -1) - 50
    design = np.stack([x, y, np.ones_like(x)], 1)
    seen = source[30:71, 30:71].reshape(-1, 2).astype(float) - 50
    found = np.linalg.lstsq(design, seen, rcond=None)[0]
    return found.T, np.abs(design @ found - seen).max()


def kind_of_affine(matrix):
    (a, b, dx), (c, d, dy) = matrix
    if abs(b) < 0.003 and abs(c) < 0.003:
        return "none" if max(abs(a - 1), abs(d - 1), abs(dx), abs(dy)) < 0.003 else "crop"
    return "shear" if abs(c) < 0.003 and abs(a - 1) < 0.003 else "rotation"


def test_half_of_the_tiles_are_cropped_sheared_or_rotated():
    fits = [affine(source) for source in sources(heng()[1:2], N)]
    assert max(error for _, error in fits) < 0.6
    kinds = [kind_of_affine(matrix) for matrix, _ in fits]
    assert close(shares(kinds), {"none": 1 / 2, "crop": 1 / 6, "shear": 1 / 6, "rotation": 1 / 6})
    shapes = {kind: np.array([m for (m, _), k in zip(fits, kinds, strict=True) if k == kind]) for kind in set(kinds)}

    shear = shapes["shear"][:, 0, 1] * 50 / 101  # how far the top row moves, in widths
    assert 0.065 < shear.max() < 0.0705
    assert -0.065 > shear.min() > -0.0705
    assert abs(shapes["shear"][:, :, 2]).max() < 0.1  # around the middle

    angle = np.degrees(np.arctan2(shapes["rotation"][:, 0, 1], shapes["rotation"][:, 0, 0]))
    assert -0.1 < angle.min() < 1  # clockwise: what stands above the middle comes from the left of it
    assert 14 < angle.max() < 15.1
    np.testing.assert_allclose(np.linalg.det(shapes["rotation"][:, :, :2]), 1, atol=0.01)

    for axis in range(2):
        scale, shift = shapes["crop"][:, axis, axis], shapes["crop"][:, axis, 2]
        before, after = 50 + shift - 50 * scale, 50 - shift - 50 * scale  # pixels that are cut off, roughly
        for cut in (before, after):
            assert -0.6 < cut.min() < 2
            assert 17 < cut.max() < 20.6
        assert abs(np.corrcoef(before, after)[0, 1]) < 0.25  # each side by itself


def test_half_of_the_tiles_are_mirrored():
    mirrored = ["mirrored" if source[50, 20, 0] > 50 else "not" for source in sources(heng()[:1], N)]
    assert close(shares(mirrored), {"mirrored": 0.5, "not": 0.5})


def test_elastic_stretches_each_ten_rows_and_columns_by_up_to_15_percent():
    found = sources([Elastic()], 200)
    columns, rows = found[:, 50, :, 0], found[:, :, 50, 1]
    assert abs(found[:, :80, :80, 0] - columns[:, None, :80]).max() <= 0.5
    assert abs(found[:, :80, :80, 1] - rows[:, :80, None]).max() <= 0.5
    stretch = np.concatenate([np.diff(line[:, :81:10], axis=1) for line in (columns, rows)], 1) / 10 - 1
    # ten pixels are read to half a pixel: 5 %
    assert 0.12 < stretch.max() < 0.21
    assert -0.12 > stretch.min() > -0.21
    # the strength is drawn for each tile: with 15 % for all, none would stay within 8 % in all of 16 places
    assert (abs(stretch).max(1) < 0.08).mean() > 0.2


def test_elastic_is_a_fourth_shape_of_heng():
    names = [type(part).__name__ for part in Augmenter("elastic", 0).pipeline.transforms[1].transforms]
    assert names == [*(type(part).__name__ for part in heng()[1].transforms), "Elastic"]
    fits = [affine(source) for source in sources(Augmenter("elastic", 0).pipeline.transforms[1:2], N)]
    untouched = [error < 0.01 and kind_of_affine(matrix) == "none" for matrix, error in fits]
    assert abs(np.mean(untouched) - 0.5) < 0.06


def holes(mask, n=400):
    """What n draws cut out of a white tile with this mask: (top, bottom, left, right), None where there is no hole."""
    compose = A.Compose([Cutout()], seed=0)
    found = []
    for _ in range(n):
        result = compose(image=np.full((101, 101), 255, np.uint8), mask=mask)
        np.testing.assert_array_equal(result["mask"], mask)
        rows, columns = np.nonzero(result["image"] != 255)
        assert len(rows) in (0, 900)
        assert set(result["image"][rows, columns]) <= {115}
        found.append((rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) if len(rows) else None)
    return found


def test_half_of_the_tiles_get_a_hole_anywhere():
    cut = [hole for hole in holes(np.zeros((101, 101), np.uint8)) if hole]
    assert abs(len(cut) / 400 - 0.5) < 0.1
    top, bottom, left, right = np.array(cut).T
    assert set(bottom - top) == set(right - left) == {30}
    for first in (top, left):
        assert first.min() < 5
        assert first.max() > 66
        assert abs(first.mean() - 35.5) < 6


@pytest.mark.parametrize("side", [10, 35])
def test_no_hole_hides_more_than_half_of_the_salt(side):
    mask = np.zeros((101, 101), np.uint8)
    mask[15 : 15 + side, 60 : 60 + side] = 1
    cut = [hole for hole in holes(mask) if hole]
    hidden = [mask[top:bottom, left:right].sum() / mask.sum() for top, bottom, left, right in cut]
    assert 0 < max(hidden) <= 0.5
    assert len(cut) > 100


def test_cutout_is_a_hole_and_then_heng_with_elastic():
    kinds = {name: Augmenter(name, 0).pipeline.transforms for name in ("elastic", "cutout")}
    names = {name: [type(part).__name__ for part in parts] for name, parts in kinds.items()}
    assert names["cutout"] == ["Cutout", *names["elastic"]]
    assert isinstance(kinds["cutout"][2].transforms[-1], Elastic)


def test_bes_scales_and_shifts_seven_tiles_in_ten():
    # scaled down, the middle that the fit looks at stays free of what the border reflects
    fits = [affine(source) for source in sources(bes()[3:], N)]
    clean = [matrix for matrix, error in fits if error < 0.6]
    assert close(shares([kind_of_affine(matrix) == "none" for matrix, _ in fits]), {True: 0.3, False: 0.7})
    moved = np.array([matrix for matrix in clean if kind_of_affine(matrix) == "crop"])
    np.testing.assert_allclose(moved[:, 0, 0], moved[:, 1, 1], atol=0.02)  # both sides alike
    assert abs(moved[:, [0, 1], [1, 0]]).max() < 0.02  # no rotation, no shear
    scale = 1 / moved[:, 0, 0]
    assert 1.5 < scale.max() < 1.62
    shift = -moved[:, :, 2] * scale[:, None] / 101
    assert 0.14 < abs(shift).max() < 0.17

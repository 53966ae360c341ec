"""Hidden blocks cover what is promised, anywhere, and nothing of what they hide shows."""

import numpy as np
import pytest

from kit.training import masking

SHAPE = (101, 101)


def blocks(seed: int) -> np.ndarray:
    return masking.hidden_blocks(SHAPE, np.random.default_rng(seed))


def test_the_share_is_met_and_exceeded_by_less_than_a_block():
    shares = np.array([blocks(seed).mean() for seed in range(300)])
    assert shares.min() >= 0.6
    assert shares.max() < 0.6 + 16 * 16 / 101**2


def test_every_place_is_hidden_as_often_as_any_other():
    often = np.mean([blocks(seed) for seed in range(2000)], axis=0)
    # 0.606 and five deviations of a share of 2,000
    assert abs(often - 0.606).max() < 5 * np.sqrt(0.606 * 0.394 / 2000)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_hidden_are_squares_of_one_grid(seed):
    hidden = blocks(seed)
    corners = ((side, top, left) for side in range(8, 17) for top in range(side) for left in range(side))
    assert any(_is_of_grid(hidden, *corner) for corner in corners)


def _is_of_grid(hidden, side, top, left):
    """Whether each cell of the grid with a corner at (top, left) is hidden or visible as a whole."""
    changes_down, changes_across = (hidden[1:] != hidden[:-1]).any(1), (hidden[:, 1:] != hidden[:, :-1]).any(0)
    lines_down, lines_across = (np.arange(1, 101) % side == first for first in (top, left))
    return not (changes_down & ~lines_down).any() and not (changes_across & ~lines_across).any()


def test_other_generators_hide_other_blocks_and_equal_ones_the_same():
    np.testing.assert_array_equal(blocks(1), blocks(1))
    assert (blocks(1) != blocks(2)).any()


def test_what_stands_in_place_follows_from_the_visible_pixels_alone():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, *SHAPE), np.uint8)
    hidden = blocks(3)
    other[~hidden] = one[~hidden]
    for fill in (masking.cover, masking.inpaint):
        np.testing.assert_array_equal(fill(one, hidden), fill(other, hidden))
        np.testing.assert_array_equal(fill(one, hidden)[~hidden], one[~hidden])
    assert set(masking.cover(one, hidden)[hidden]) == {round(one[~hidden].astype(float).mean())}


def test_inpainting_continues_a_slope():
    slope = np.tile(np.arange(101, dtype=np.uint8) * 2, (101, 1))
    hidden = np.zeros(SHAPE, bool)
    hidden[40:52, 40:52] = True
    error = abs(masking.inpaint(slope, hidden)[hidden].astype(float) - slope[hidden])
    assert error.mean() < 3
    assert abs(masking.cover(slope, hidden)[hidden].astype(float) - slope[hidden]).mean() > 6

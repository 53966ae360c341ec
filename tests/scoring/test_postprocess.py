"""Component and constant rules against a flood fill written out here."""

import numpy as np
import pytest

from kit.scoring.postprocess import (
    CHUNK,
    component_areas,
    empty_constant,
    empty_full,
    fill_small_holes,
    hole_areas,
    remove_small_components,
)


def flood_areas(mask: np.ndarray) -> np.ndarray:
    """Size of each pixel's 4-connected component, by flood fill."""
    areas, seen = np.zeros(mask.shape, int), set()
    for start in zip(*np.nonzero(mask), strict=True):
        if start in seen:
            continue
        component, frontier = {start}, [start]
        while frontier:
            row, col = frontier.pop()
            for near in ((row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)):
                inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                if inside and mask[near] and near not in component:
                    component.add(near)
                    frontier.append(near)
        seen |= component
        for pixel in component:
            areas[pixel] = len(component)
    return areas


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    masks = np.random.default_rng(0).random((CHUNK + 9, 12, 15)) > 0.55
    masks[3] = False
    masks[4:6] = True  # two full tiles on top of each other must stay two
    return masks


def test_areas_are_those_of_a_flood_fill_tile_by_tile(masks):
    np.testing.assert_array_equal(component_areas(masks), [flood_areas(mask) for mask in masks])


@pytest.mark.parametrize("min_pixels", [2, 5, 40, 12 * 15, 12 * 15 + 1])
def test_components_below_the_bound_go_and_no_others(masks, min_pixels):
    before = masks.copy()
    expected = [mask & (flood_areas(mask) >= min_pixels) for mask in masks]
    np.testing.assert_array_equal(remove_small_components(masks, min_pixels), expected)
    np.testing.assert_array_equal(masks, before)


@pytest.mark.parametrize("min_pixels", [0, 1])
def test_nothing_goes_at_0_and_1(masks, min_pixels):
    kept = remove_small_components(masks, min_pixels)
    np.testing.assert_array_equal(kept, masks)
    assert not np.shares_memory(kept, masks)


def test_diagonal_neighbours_are_two_components():
    mask = np.eye(4, dtype=bool)[None]
    assert component_areas(mask).max() == 1
    assert not remove_small_components(mask, 2).any()


def flood_holes(mask: np.ndarray) -> np.ndarray:
    """Size of each background pixel's component where that stays away from the edge, by flood fill."""
    areas = flood_areas(~mask)
    edge = np.ones_like(mask)
    edge[1:-1, 1:-1] = False
    for start in zip(*np.nonzero(edge & ~mask), strict=True):
        if not areas[start]:
            continue
        frontier = [start]
        while frontier:
            row, col = frontier.pop()
            inside = 0 <= row < mask.shape[0] and 0 <= col < mask.shape[1]
            if inside and areas[row, col]:
                areas[row, col] = 0
                frontier += [(row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)]
    return areas


def test_holes_are_what_a_flood_from_the_edge_does_not_reach(masks):
    np.testing.assert_array_equal(hole_areas(masks), [flood_holes(mask) for mask in masks])


@pytest.mark.parametrize("min_pixels", [2, 5, 10_000])
def test_holes_below_the_bound_are_filled_and_no_others(masks, min_pixels):
    before, holes = masks.copy(), np.array([flood_holes(mask) for mask in masks])
    np.testing.assert_array_equal(fill_small_holes(masks, min_pixels), masks | ((holes > 0) & (holes < min_pixels)))
    np.testing.assert_array_equal(masks, before)


def test_full_masks_and_only_those_are_emptied(masks):
    emptied = empty_full(masks)
    assert not emptied[4:6].any()
    np.testing.assert_array_equal(np.delete(emptied, [4, 5], 0), np.delete(masks, [4, 5], 0))


def test_constant_tiles_are_emptied_and_the_others_kept(masks):
    constant = np.arange(len(masks)) % 3 == 0
    emptied = empty_constant(masks, constant)
    assert not emptied[::3].any()
    np.testing.assert_array_equal(emptied[~constant], masks[~constant])

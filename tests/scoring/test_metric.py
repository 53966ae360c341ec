"""The score against a slow definition written from the competition's text, in fractions and sets of pixels."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kit.scoring import metric


def slow_average_precision(pred, true):
    """The competition's text for one tile: mean over thresholds 0.50, 0.55, ..., 0.95 of "IoU greater than t"."""
    predicted, actual = set(zip(*np.nonzero(pred), strict=True)), set(zip(*np.nonzero(true), strict=True))
    if not predicted and not actual:
        return 1.0
    if not predicted or not actual:
        return 0.0
    iou = Fraction(len(predicted & actual), len(predicted | actual))
    return sum(iou > Fraction(50 + 5 * step, 100) for step in range(10)) / 10


def strip(count, size=100):
    """A tile of one row with its first `count` pixels salt."""
    return (np.arange(size) < count)[None]


shapes = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)
pairs = shapes.flatmap(lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape)))


@settings(deadline=None)
@given(pairs)
def test_agrees_with_the_slow_definition(pair):
    pred, true = pair
    expected = [slow_average_precision(p, t) for p, t in zip(pred, true, strict=True)]
    assert metric.average_precision(pred, true).tolist() == expected
    assert metric.mean_average_precision(pred, true) == pytest.approx(np.mean(expected), abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 200))
def test_agrees_at_every_iou_that_two_strips_can_have(predicted, actual):
    pred, true = strip(predicted, 200), strip(actual, 200)
    assert metric.average_precision(pred[None], true[None]).tolist() == [slow_average_precision(pred, true)]


def test_known_answers():
    empty, full, pixel = np.zeros((101, 101), bool), np.ones((101, 101), bool), np.zeros((101, 101), bool)
    pixel[50, 50] = True
    cases = [
        (empty, empty, 1),
        (full, empty, 0),
        (empty, full, 0),
        (pixel, empty, 0),
        (empty, pixel, 0),
        (full, full, 1),
        (pixel, pixel, 1),
        (pixel, full, 0),
        (full & ~pixel, full, 1),
    ]
    pred, true, expected = zip(*cases, strict=True)
    assert metric.average_precision(np.array(pred), np.array(true)).tolist() == list(expected)


@pytest.mark.parametrize("step", range(10))
@pytest.mark.parametrize("size", [20, 100, 200, 10200])
def test_an_iou_exactly_at_a_threshold_misses_it(step, size):
    at = size * (10 + step) // 20  # IoU = at / size = 0.50 + 0.05 * step
    pred = np.array([strip(at, size), strip(at + 1, size)])
    scores = metric.average_precision(pred, np.array([strip(size, size)] * 2))
    next_hits = 10 if at + 1 == size else step + 1
    assert scores.tolist() == [step / 10, next_hits / 10]


def test_the_mean_is_over_tiles():
    true = np.array([strip(100), strip(0), strip(0)])
    pred = np.array([strip(73), strip(0), strip(1)])  # IoU 0.73 exceeds 0.5, ..., 0.7: 0.5; then 1 and 0
    assert metric.mean_average_precision(pred, true) == 0.5


def test_no_tiles():
    nothing = np.zeros((0, 4, 4), bool)
    assert metric.average_precision(nothing, nothing).shape == (0,)
    assert metric.sweep(nothing.astype(np.float32), nothing, [0.5]).shape == (0, 1)
    with pytest.raises(ValueError, match="no tiles"):
        metric.mean_average_precision(nothing, nothing)


def slow_sweep(prob, true, thresholds):
    return [
        [slow_average_precision([[float(p) > float(t) for p in row] for row in tile], mask) for t in thresholds]
        for tile, mask in zip(prob, true, strict=True)
    ]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@settings(deadline=None)
@given(data=st.data())
def test_sweep_agrees_with_the_slow_definition(dtype, data):
    """Probabilities are drawn from few values, the thresholds' own among them, so that many lie on a threshold."""
    shape = data.draw(shapes)
    values = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]).map(lambda value: float(dtype(value)))
    prob = data.draw(hnp.arrays(dtype, shape, elements=values))
    true = data.draw(hnp.arrays(bool, shape))
    thresholds = data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, -0.1]), max_size=5))
    thresholds = np.array(thresholds, float)
    expected = np.array(slow_sweep(prob, true, thresholds)).reshape(len(prob), len(thresholds))
    np.testing.assert_array_equal(metric.sweep(prob, true, thresholds), expected)


def test_sweep_does_not_round_the_threshold_to_the_probabilities_type():
    true = np.ones((1, 1, 1), bool)
    half = np.float16(0.7)  # 0.7001953125, which is above 0.7
    assert metric.sweep(np.full((1, 1, 1), half), true, [0.7, float(half)]).tolist() == [[1.0, 0.0]]
    half = np.float16(0.3)  # 0.300048828125
    assert metric.sweep(np.full((1, 1, 1), half), true, np.array([0.3], np.float64)).tolist() == [[1.0]]


def test_sweep_of_bytes_uses_their_own_unit():
    prob = np.array([[[0, 127, 128, 255]]], np.uint8)
    true = np.array([[[False, False, True, True]]])
    assert metric.sweep(prob, true, [127, 0, 255]).tolist() == [[1.0, 0.4, 0.0]]  # IoU 1, 2/3, and empty


def test_sweep_at_one_threshold_is_the_score_of_the_mask():
    rng = np.random.default_rng(1)
    prob, true = rng.random((20, 9, 8), np.float32), rng.random((20, 9, 8)) < 0.6
    np.testing.assert_array_equal(metric.sweep(prob, true, [0.4])[:, 0], metric.average_precision(prob > 0.4, true))


def test_kinds():
    def tile(*salt):
        mask = np.zeros((101, 101), bool)
        for rows, columns in salt:
            mask[rows, columns] = True
        return mask

    every, one = slice(None), slice(0, 1)
    kinds = {
        "empty": [tile()],
        "tiny": [tile((0, 0)), tile((one, slice(0, 100)))],
        "vertical": [tile((every, one)), tile((every, slice(20, 90))), tile((every, slice(0, 101, 2)))],
        "large": [tile((slice(0, 51), every)), tile((every, every))],
        "ordinary": [tile((one, every)), tile((slice(0, 50), every)), tile((slice(1, 101), slice(0, 50)))],
    }
    masks = np.array([mask for tiles in kinds.values() for mask in tiles])
    assert metric.kind_of(masks).tolist() == [kind for kind, tiles in kinds.items() for _ in tiles]


BOOL = np.zeros((2, 3, 3), bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metric.average_precision(BOOL, BOOL[:1]), r"pred has shape \(2, 3, 3\) and true \(1, 3, 3\)"),
        (lambda: metric.average_precision(BOOL[0], BOOL[0]), r"pred must be bool masks of shape \(N, H, W\)"),
        (lambda: metric.average_precision(BOOL * 1.0, BOOL), "pred must be bool masks .*not float64.*compare first"),
        (lambda: metric.average_precision(BOOL, BOOL * 255), "true must be bool masks"),
        (lambda: metric.sweep(BOOL, BOOL, [0.5]), "prob must be real numbers, not bool"),
        (lambda: metric.sweep(np.zeros((2, 4, 3)), BOOL, [0.5]), r"prob has shape \(2, 4, 3\)"),
        (lambda: metric.sweep(BOOL * 1.0, BOOL, 0.5), "thresholds must be numbers in one dimension"),
        (lambda: metric.sweep(BOOL * 1.0, BOOL, [0.5, np.nan]), "thresholds must be numbers"),
        (lambda: metric.sweep(np.where([[[1]], [[0]]], 1.0, np.full((2, 3, 3), np.nan)), BOOL, [0.5]), "tile 1 is NaN"),
        (lambda: metric.kind_of(BOOL * 1), "true must be bool masks"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)

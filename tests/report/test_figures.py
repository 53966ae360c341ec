"""What a reader must find in a figure is in it, and nothing is cut off."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from kit.report.figures import foretold, restoration, save, score_against_speed, score_against_threshold
from kit.report.figures.style import show_in_notebooks
from kit.scoring.threshold import Decision, Tuning

pytestmark = pytest.mark.slow

THRESHOLDS = np.round(np.linspace(0.1, 0.9, 41), 2)
CURVE = 0.8 - (THRESHOLDS - 0.36) ** 2
TUNED = Tuning(
    Decision(0.36, 20, (), score=0.7987, baseline=0.7801, gain_low=0.0122, gain_high=0.025, accepted=True),
    candidate=(0.36, 20),
    by_fold={0: (0.34, 20), 1: (0.36, 20), 2: (0.38, 50)},
    baseline=0.7801,
    thresholds=THRESHOLDS,
    curve=CURVE,
    band=0.01 + 0.02 * abs(THRESHOLDS - 0.5),
)
REFUSED = replace(TUNED, decision=replace(TUNED.decision, threshold=0.5, min_component=0, accepted=False))


def legend(figure) -> str:
    return " | ".join(text.get_text() for text in figure.legends[0].get_texts())


def test_the_curve_the_choice_and_one_half_are_marked():
    figure = score_against_threshold(TUNED)
    (axes,) = figure.axes
    marked = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    np.testing.assert_allclose(
        marked["score, components under 20 pixels removed, as was found best"], np.stack([THRESHOLDS, CURVE], 1)
    )
    assert marked["0.50, every component kept"] == [[0.5, 0.7801]]
    assert marked["0.36, found on all tiles"] == [[0.36, pytest.approx(0.8)]]
    assert [x for x, _ in marked["found with one fold left out"]] == [0.34, 0.36, 0.38]
    assert all(label in legend(figure) for label in marked if not label.startswith("_"))
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_the_band_spans_the_noise():
    (axes,) = score_against_threshold(TUNED).axes
    at_the_left = [y for x, y in axes.collections[0].get_paths()[0].vertices if x == THRESHOLDS[0]]
    assert min(at_the_left) == pytest.approx(CURVE[0] - TUNED.band[0])
    assert max(at_the_left) == pytest.approx(CURVE[0] + TUNED.band[0])


def test_the_band_stays_among_the_scores_there_can_be():
    wide = replace(TUNED, curve=np.linspace(0.01, 0.99, 41), band=np.full(41, 0.05))
    (axes,) = score_against_threshold(wide).axes
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0, 1)


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        (TUNED, "Threshold 0.36, components under 20 pixels removed"),
        (REFUSED, "Threshold stays at 0.50: no gain is shown"),
    ],
)
def test_the_title_says_the_decision_and_its_numbers(tuning, words):
    title = score_against_threshold(tuning).axes[0].get_title(loc="left")
    assert title.splitlines()[0] == words
    assert all(number in title for number in ("0.7987", "0.7801", "+0.0122", "+0.0250"))


@pytest.mark.parametrize("tuning", [TUNED, REFUSED])
def test_every_text_lies_inside_the_picture(tuning):
    figure = score_against_threshold(tuning)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    (axes,) = figure.axes
    for artist in (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, figure.legends[0]):
        box = artist.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_it_is_written_whole_as_the_kind_of_picture_its_name_says(tmp_path):
    save(score_against_threshold(TUNED), tmp_path / "decision.png")
    with Image.open(tmp_path / "decision.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (960, 648)
    assert [path.name for path in tmp_path.iterdir()] == ["decision.png"]


def test_ipython_is_asked_to_draw_figures_where_it_runs(monkeypatch):
    asked = []
    shell = SimpleNamespace(get_ipython=lambda: "the shell")
    tools = SimpleNamespace(select_figure_formats=lambda *given: asked.append(given))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.core", SimpleNamespace(pylabtools=tools))
    monkeypatch.setitem(sys.modules, "IPython.core.pylabtools", tools)
    show_in_notebooks()
    shell.get_ipython = lambda: None  # imported by a script
    show_in_notebooks()
    assert asked == [("the shell", {"png"})]


ENCODERS = pd.DataFrame(
    {
        "encoder": ["resnet18", "seresnext50_32x4d", "a", "b", "c", "d", "e"],
        "score": [0.70, 0.68, 0.66, 0.64, 0.62, 0.60, 0.58],
        "score_low": 0.5,
        "score_high": 0.75,
        "tiles_per_second": [50.0, 6.0, 7.0, 8.0, 9.0, 20.0, 21.0],
        "parameters": [12_300_000, 27_400_000, 1, 1, 1, 1, 1],
    }
)


def test_each_encoder_stands_at_its_speed_and_score_with_its_interval():
    figure = score_against_speed(ENCODERS, "10 minutes each")
    (axes,) = figure.axes
    drawn = [bar.lines[0].get_xydata()[0].tolist() for bar in axes.containers]
    assert drawn == ENCODERS[["tiles_per_second", "score"]].to_numpy().tolist()
    for bar in axes.containers:
        (interval,) = bar.lines[2][0].get_segments()
        assert interval[:, 1].tolist() == pytest.approx([0.5, 0.75])
    assert legend(figure).startswith("resnet18, 12.3 M parameters | seresnext50_32x4d, 27.4 M parameters | a, ")
    assert axes.get_title(loc="left") == "10 minutes each"


def test_encoders_are_told_apart_without_colour():
    (axes,) = score_against_speed(ENCODERS[:6], "").axes
    assert len({bar.lines[0].get_marker() for bar in axes.containers}) == 6


def test_each_tile_stands_above_what_was_made_of_it():
    rows = np.random.default_rng(0).integers(0, 256, (3, 4, 9, 9), np.uint8)
    figure = restoration(*rows)
    for axes, image in zip(figure.axes, rows.reshape(-1, 9, 9), strict=True):
        (drawn,) = axes.images
        np.testing.assert_array_equal(drawn.get_array(), image)
        assert drawn.get_clim() == (0, 255)
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["Held-out tile", "Hidden blocks", "Restored"]


def test_each_submission_stands_at_its_scores_and_those_without_one_at_the_edge():
    scores = pd.DataFrame({"oof": [0.8, 0.82, np.nan], "public": [0.79, 0.83, 0.7], "private": [0.81, np.nan, 0.75]})
    figure = foretold(scores, "public: this; private: that")
    (axes,) = figure.axes
    points = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert points["public score"] == [[0.8, 0.79], [0.82, 0.83]]
    assert points["private score"] == [[0.8, 0.81]]
    assert points["equal scores"] == [[0.7, 0.7], [0.83, 0.83]]
    assert sorted(y for line in axes.lines if line.get_label().startswith("_") for y in line.get_ydata()) == [0.7, 0.75]
    assert axes.get_title(loc="left") == "public: this\nprivate: that"

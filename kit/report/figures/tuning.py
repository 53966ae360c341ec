"""The decision: what each threshold would score."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kit.report.figures.style import BLUE, GREY, ORANGE, chart, legend
from kit.scoring.threshold import Tuning


def score_against_threshold(tuning: Tuning) -> Figure:
    """Mean score against threshold on the out-of-fold tiles, with 0.5, the tuned threshold and the noise between them.

    The line is measured on the tiles that the threshold was chosen on; the gain in the title is nested, so it is not.
    """
    figure, axes = chart(tuning.decision.in_words(), "Threshold on the probability of salt", "Mean average precision")
    _draw_scores(axes, tuning)
    axes.set_xlim(tuning.thresholds[0], tuning.thresholds[-1])
    legend(figure)
    return figure


def _draw_scores(axes: Axes, tuning: Tuning) -> None:
    threshold, size = tuning.candidate
    components = f"components under {size} pixels removed, as was found best" if size else "every component kept"
    axes.plot(tuning.thresholds, tuning.curve, color=BLUE, label=f"score, {components}")
    axes.fill_between(
        tuning.thresholds, (tuning.curve - tuning.band).clip(0), (tuning.curve + tuning.band).clip(max=1),
        color=BLUE, alpha=0.2, linewidth=0, label="95 % band of its difference from the square",
    )  # fmt: skip
    axes.axhline(tuning.baseline, color=GREY, linewidth=1, linestyle=":")
    axes.plot(0.5, tuning.baseline, "s", color=GREY, markersize=12, label="0.50, every component kept")
    score = tuning.curve[abs(tuning.thresholds - threshold).argmin()]
    axes.plot(threshold, score, "o", color=ORANGE, markersize=8, label=f"{threshold:.2f}, found on all tiles")
    found = [fold_threshold for fold_threshold, _ in tuning.by_fold.values()]
    at_the_axis = axes.get_xaxis_transform()
    axes.plot(found, [0.025] * len(found), "|", color=ORANGE, markersize=14, markeredgewidth=2,
              transform=at_the_axis, label="found with one fold left out")  # fmt: skip

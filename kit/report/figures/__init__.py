"""Figures for scripts, the report and notebooks: from arrays and tables to a matplotlib Figure each."""

from kit.report.figures.comparison import foretold, score_against_speed
from kit.report.figures.pictures import mosaic, restoration
from kit.report.figures.style import save
from kit.report.figures.training import learning_rates, loss_against_rate, losses, scores, scores_of_runs
from kit.report.figures.tuning import score_against_threshold

__all__ = [
    "foretold",
    "learning_rates",
    "loss_against_rate",
    "losses",
    "mosaic",
    "restoration",
    "save",
    "score_against_speed",
    "score_against_threshold",
    "scores",
    "scores_of_runs",
]

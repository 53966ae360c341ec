"""Figures for scripts, the report and notebooks: from arrays and tables to a matplotlib Figure each."""

from kit.report.figures.comparison import foretold, score_against_speed
from kit.report.figures.pictures import mosaic, restoration
from kit.report.figures.result import boundary_error, empty_confusion, iou_histogram, score_by_group
from kit.report.figures.style import save
from kit.report.figures.training import learning_rates, loss_against_rate, losses, scores, scores_of_runs
from kit.report.figures.trust import agreement, calibration, train_beside_valid, worst
from kit.report.figures.tuning import score_against_threshold

__all__ = [
    "agreement",
    "boundary_error",
    "calibration",
    "empty_confusion",
    "foretold",
    "iou_histogram",
    "learning_rates",
    "loss_against_rate",
    "losses",
    "mosaic",
    "restoration",
    "save",
    "score_against_speed",
    "score_against_threshold",
    "score_by_group",
    "scores",
    "scores_of_runs",
    "train_beside_valid",
    "worst",
]

"""Figures for scripts, the report and notebooks: from arrays and tables to a matplotlib Figure each."""

from kit.report.figures.comparison import foretold, growth, score_against_speed
from kit.report.figures.data import (
    class_against_coverage,
    coverage_classes,
    coverage_histogram,
    depth_distributions,
    empty_by_depth,
    mask_positions,
)
from kit.report.figures.explained import metric_explained, net_input
from kit.report.figures.pictures import mosaic, restoration
from kit.report.figures.result import boundary_error, empty_confusion, iou_histogram, score_by_group
from kit.report.figures.style import save, show_in_notebooks
from kit.report.figures.tiles import Row, tile_rows
from kit.report.figures.training import learning_rates, loss_against_rate, losses, scores, scores_of_runs
from kit.report.figures.trust import agreement, calibration, train_beside_valid, worst
from kit.report.figures.tuning import score_against_threshold

show_in_notebooks()

__all__ = [
    "Row",
    "agreement",
    "boundary_error",
    "calibration",
    "class_against_coverage",
    "coverage_classes",
    "coverage_histogram",
    "depth_distributions",
    "empty_by_depth",
    "empty_confusion",
    "foretold",
    "growth",
    "iou_histogram",
    "learning_rates",
    "loss_against_rate",
    "losses",
    "mask_positions",
    "metric_explained",
    "mosaic",
    "net_input",
    "restoration",
    "save",
    "score_against_speed",
    "score_against_threshold",
    "score_by_group",
    "scores",
    "scores_of_runs",
    "tile_rows",
    "train_beside_valid",
    "worst",
]

"""Figures for scripts, the report and notebooks: from arrays and tables to a matplotlib Figure each."""

from kit.report.figures.comparison import foretold, score_against_speed
from kit.report.figures.pictures import mosaic, restoration
from kit.report.figures.style import save
from kit.report.figures.tuning import score_against_threshold

__all__ = ["foretold", "mosaic", "restoration", "save", "score_against_speed", "score_against_threshold"]

"""`train.py --pretext` with its picture: hidden blocks of held-out tiles beside what the net puts there."""

import argparse

from kit.report import figures
from kit.training import pretext_command


def train(args: argparse.Namespace) -> None:
    """Start a pretext run or go on with one; pretext.png is drawn at its end."""
    run, tiles = pretext_command.train(args)
    if tiles:
        figures.save(figures.restoration(*tiles), run / "pretext.png")

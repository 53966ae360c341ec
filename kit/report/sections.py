"""What scripts/report.py does: the sections of the report in their order, each made when its turn comes."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

from kit.data import placement
from kit.data.tiles import Tiles, load
from kit.errors import InputError
from kit.report import (
    absent,
    changes,
    data_section,
    gallery,
    mosaic_section,
    net_section,
    page,
    result_section,
    submission_section,
    summary_section,
    training_section,
)
from kit.report.plates import Section
from kit.runs import Run
from kit.scoring import decide


def write(runs: list[Run], data: Path) -> Path:
    """Write the report of runs, into the first one's folder, or without a run that of the data; returns the page.

    Raises InputError where the first run was trained on other tiles than those of the folder `data`, where two runs
    share a name, and where a file is damaged; nothing is then written.
    """
    tiles, name = load(data), data.resolve().name
    if not runs:
        return page.write(Path("reports") / name, f"Data: {name}, {date.today()}", of_data(tiles, data))
    for run in runs:  # scores on other tiles are not to be compared
        decide.check_tiles(run, tiles)
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise InputError(f"two of the runs {', '.join(names)} have one name: give each once, or rename a folder")
    title = f"{', '.join(names)} on {name}, {date.today()}"
    return page.write(runs[0] / "report", title, of_runs(runs, tiles, data))


def of_runs(runs: list[Run], tiles: Tiles, data: Path) -> Iterator[Section]:
    """The report of runs on the tiles of the folder `data`: the first in full, the others' trainings beside it.

    Of a run without out-of-fold predictions there is little to show; the summary says what brings the rest.
    """
    run, places = runs[0], placement.read(data)
    summary = summary_section.section(runs)
    yield replace(summary, parts=[*summary.parts, *absent.tables(run, tiles, data)])
    judged = changes.judge(run, tiles, places) if (run / "oof.npy").exists() else None
    yield result_section.section(run, tiles, judged)
    if judged:
        yield gallery.of_run(run, tiles, judged)
    else:
        print(f"left out: result and tiles, for {run.path} has no out-of-fold predictions: {absent.without_oof(run)}")
    yield training_section.section(runs)
    yield net_section.section(run, tiles)
    yield mosaic_section.section(tiles, places, run)
    yield submission_section.section()
    yield data_section.section(tiles, data)


def of_data(tiles: Tiles, data: Path) -> Iterator[Section]:
    """The report of the data alone."""
    yield data_section.section(tiles, data)
    yield gallery.of_data(tiles)
    yield mosaic_section.section(tiles, placement.read(data), None)

"""One static page of sections, with its figures and tiles beside it: a folder that is written whole or not at all.

It is opened from the disk: no network, no script but its own, nothing fetched.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from kit import runs
from kit.errors import InputError
from kit.report import figures, sprites
from kit.report.plates import Gallery, Plate, Section, Table

_PAGE = Path(__file__).with_suffix("")  # the folder of the template, the style and the script
_CSS_INCH = 96  # pixels, so that 11 points are the size they say
_ROUNDED = {"coverage": 6, "predicted": 6, "score": 2, "iou": 4, "uncertainty": 4, "depth": 1}  # decimals


def write(folder: Path, title: str, sections: Iterable[Section]) -> Path:
    """Write index.html, figures/NAME.png and .svg, and tiles/ into `folder`, in place of an earlier report.

    Sections without parts are left out. One section's figures are in memory at a time where `sections` is a generator.
    Returns the page. Whatever is raised, by the sections too, leaves the earlier report as it was.
    """
    with _replaced(folder) as new:
        shown = [_section(section, new) for section in sections if section.parts]
        names = [part["name"] for section in shown for part in section["parts"]]
        if len(set(names)) < len(names):
            raise ValueError(f"two parts of the report share a name: {sorted(names)}")
        environment = Environment(
            loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        style, script = ((_PAGE / name).read_text() for name in ("page.css", "page.js"))
        page = environment.get_template("page.html.j2")
        (new / "index.html").write_text(page.render(title=title, sections=shown, style=style, script=script), "utf-8")
    return folder / "index.html"


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`, which takes its place when the block succeeds and is deleted when not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    with runs.exclusive(folder.with_name(f".{folder.name}.lock")):
        _tidy(folder, new, old)  # after a process that was killed
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file where the report's folder should be: move or delete it")
        new.mkdir()
        try:
            yield new
            if folder.exists():
                os.replace(folder, old)
            os.replace(new, folder)
        finally:
            _tidy(folder, new, old)


def _tidy(folder: Path, new: Path, old: Path) -> None:
    """Put the earlier report back where no new one came; delete what is left."""
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    for left in (new, old):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _section(section: Section, folder: Path) -> dict[str, Any]:
    return {"name": section.name, "title": section.title, "parts": [_part(part, folder) for part in section.parts]}


def _part(part: Plate | Table | Gallery, folder: Path) -> dict[str, Any]:
    """What the template needs of a part, whose files are written."""
    name = re.sub(r"[^\w.+-]", "-", part.name).lstrip(".")  # a run's name may be in it, and that is any folder's
    common = {"name": name, "question": part.question, "note": part.note}
    if isinstance(part, Plate):
        return common | {"kind": "plate"} | _plate(part.figure, folder / "figures" / name)
    if isinstance(part, Table):
        return common | {"kind": "table"} | _table(part.frame)
    return common | {"kind": "gallery", "data": _gallery(part, folder / "tiles")}


def _plate(figure: Figure, path: Path) -> dict[str, Any]:
    figures.save(figure, f"{path}.png")
    figure.set_layout_engine(None)  # it is laid out by now, and that takes as long as drawing
    figures.save(figure, f"{path}.svg")
    width, height = (round(inches * _CSS_INCH) for inches in figure.get_size_inches())
    return {"width": width, "height": height}


def _table(frame: pd.DataFrame) -> dict[str, Any]:
    numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    rows = [[_text(value) for value in row] for row in frame.astype(object).itertuples(index=False, name=None)]
    return {"columns": list(zip(map(str, frame.columns), numeric, strict=True)), "rows": rows}


def _text(value: Any) -> str:
    """A cell as people read it: a dash for what is not known, four digits of a number, thousands set apart."""
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _gallery(gallery: Gallery, folder: Path) -> dict[str, Any]:
    """What page.js knows of the tiles: a list for each fact, what rules changed, and the sheets of each layer.

    Layers of changes have a thumbnail for each of them, in their order, instead of each tile.
    """
    folder.mkdir()
    facts = gallery.tiles.round({name: digits for name, digits in _ROUNDED.items() if name in gallery.tiles})
    rules = gallery.changes["rule"].cat
    layers = gallery.layers | gallery.changed
    codes = gallery.changes.assign(rule=rules.codes).round(2)
    return {
        "facts": _columns(facts),
        "changes": codes.astype(object).to_numpy().tolist(),
        "rules": list(rules.categories),
        "sheets": {layer: sprites.write(folder, layer, stack) for layer, stack in layers.items()},
        "across": sprites.ACROSS,
    }


def _columns(facts: pd.DataFrame) -> dict[str, list]:
    """The columns as plain lists, null for what is not known: JSON has no NaN."""
    return {str(name): column.astype(object).where(column.notna(), None).tolist() for name, column in facts.items()}

"""Where each tile lies in its mosaic: mosaic.csv, which scripts/mosaic.py makes (kit.report.mosaics)."""

import hashlib
from pathlib import Path

import pandas as pd

from kit import runs
from kit.data import cache
from kit.errors import InputError

COLUMNS = ["id", "mosaic", "row", "col"]
_TYPES = {"id": str, "mosaic": int, "row": int, "col": int}


def paths(data: Path) -> list[Path]:
    """The files that may hold the table of the data folder `data`, best first; they need not exist."""
    return [folder / "mosaic.csv" for folder in cache.places(data)]


def read(data: Path) -> pd.DataFrame | None:
    """The table of a data folder, as `load` gives it; None without one. Raises InputError where it is damaged."""
    return next((load(path) for path in paths(data) if path.exists()), None)


def load(path: Path) -> pd.DataFrame:
    """A placement table: id text, mosaic, row (growing downward) and col whole numbers. Raises InputError."""
    try:
        table = pd.read_csv(path, dtype=_TYPES, keep_default_na=False)
        sound = not table[COLUMNS]["id"].duplicated().any()
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it and run scripts/mosaic.py") from None
    if not sound:
        raise InputError(f"{path} places a tile twice: delete it and run scripts/mosaic.py")
    return table


def write(data: Path, table: pd.DataFrame) -> Path:
    """Keep a table (id, mosaic, row, col, ...) for `read`, in place of an earlier one; returns where it lies.

    Raises InputError where nothing can be written.
    """
    path = cache.folder(data) / "mosaic.csv"
    runs.write_text(path, table.to_csv(index=False, float_format="%.4f"))
    return path


def digest(placement: pd.DataFrame) -> str:
    """A hash of where the tiles lie, whatever the order of the rows."""
    text = placement[COLUMNS].sort_values("id").to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Labels of test tiles that a fold may train on: their files, and the proof that they know nothing of its validation.

kit.inference.pseudo makes them. A label knows the training tiles that the models which made it have seen, and through
labels that these were trained on themselves, those of earlier models. The list travels with the labels.
"""

import hashlib
import io
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit import recipe as recipes
from kit.data import folds as folding
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.recipe import Recipe, Stage
from kit.runs import Run, find_run, read_json, write_bytes, write_json, write_text

MODES = ("none", "only", "mix")
COLUMNS = ["id", "confidence", "weight", "models"]


@dataclass(frozen=True)
class Labels:
    """n labelled test tiles, and the record of where their labels came from."""

    images: np.ndarray  # (n, H, W) uint8
    masks: np.ndarray  # (n, H, W) bool; float16 probabilities where the labels are soft
    weights: np.ndarray  # (n,) float64 above 0: how often a tile is drawn, against the others
    depth: np.ndarray  # (n,) float32, relative
    record: dict[str, Any]

    @property
    def soft(self) -> bool:
        return self.masks.dtype != bool


def folder(run: Run, fold: int | None) -> Path:
    """Where a run keeps the labels that this fold of another training may use."""
    return run / "pseudo" / run.fold(fold).name


def write(here: Path, table: pd.DataFrame, masks: np.ndarray, source: dict[str, Any]) -> None:
    """Write labels: a table of COLUMNS, masks (n, H, W) bool or float16, and `source` with the ids "seen" among it.

    The table comes last: without it there are no labels.
    """
    (here / "rows.csv").unlink(missing_ok=True)
    content = io.BytesIO()
    np.save(content, masks, allow_pickle=False)
    write_bytes(here / "masks.npy", content.getvalue())
    write_json(here / "source.json", source)
    write_text(here / "rows.csv", table[COLUMNS].to_csv(index=False))


def load(recipe: Recipe, tiles: Tiles, fold: int | None, valid_ids: Sequence[str]) -> Labels:
    """The labels that `recipe.pseudo_run` has for a fold whose validation tiles are `valid_ids`.

    Raises InputError where there are none, they are damaged or of other tiles, or their makers saw a validation tile.
    """
    run = find_run(recipe.pseudo_run)
    here = folder(run, fold)
    if not (here / "rows.csv").exists():
        flag = " --fold none" if fold is None else ""
        raise InputError(f"{here} has no labels: make them with python scripts/pseudo_label.py {run.given}{flag}")
    if not run.made_on(tiles.fingerprint):
        raise InputError(f"{run.path} labelled other tiles than these: give its own data with --data")
    table, masks, source = _read(here, tiles)
    leaked = leaks(source["seen"], valid_ids)
    if leaked:
        raise InputError(
            f"leak: the models that made {here} saw {len(leaked)} of this fold's {len(valid_ids)} validation tiles "
            f"(such as {leaked[0]}): train with the seed and the folds of {run.path}"
        )
    kept = np.ones(len(table), bool)
    if recipe.pseudo_half != "both":
        kept = in_first_half(table["id"]) == (recipe.pseudo_half == "first")
    if not kept.any():
        raise InputError(f"{here} has no label in the {recipe.pseudo_half} half: label more with a lower --confidence")
    table, masks = table[kept], masks[kept]
    rows = pd.Index(tiles.test_ids).get_indexer(pd.Index(table["id"]))
    record = {
        "labels": str(here),
        "models": source["models"],
        "digest": hashlib.sha256(table.to_csv().encode() + masks.tobytes()).hexdigest()[:16],
        "seen": source["seen"],
        "tiles": table["id"].tolist(),
    }
    weights = table["weight"].to_numpy(np.float64)
    return Labels(tiles.test_images[rows], masks, weights, tiles.relative_depth("test")[rows], record)


def _read(here: Path, tiles: Tiles) -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    """The three files of some labels, looked at. Raises InputError."""
    source = read_json(here / "source.json")
    try:
        types = {"id": str, "confidence": float, "weight": float, "models": str}
        table = pd.read_csv(here / "rows.csv", dtype=types, keep_default_na=False)[COLUMNS]
        masks = np.load(here / "masks.npy", allow_pickle=False)
        weights, ids = table["weight"].to_numpy(), table["id"]
        sound = {
            "masks that fit the rows": masks.shape == (len(table), *tiles.test_images.shape[1:]) and len(table) > 0,
            "bool or float16 masks of 0 to 1": masks.dtype in (bool, np.float16)
            and bool(((masks >= 0) & (masks <= 1)).all()),
            "weights above 0": bool((np.isfinite(weights) & (weights > 0)).all()),
            "each test tile once": not ids.duplicated().any() and bool(ids.isin(tiles.test_ids).all()),
            "the models and the tiles they saw in source.json": _names(source, "models", "seen"),
        }
    except (ValueError, OSError, EOFError, KeyError, AttributeError) as error:
        raise InputError(f"{here} is damaged ({error}): label again with pseudo_label.py") from None
    lacking = [what for what, holds in sound.items() if not holds]
    if lacking:
        raise InputError(f"{here} does not have {lacking[0]}: label again with pseudo_label.py")
    return table, masks, source


def _names(content: dict[str, Any], *keys: str) -> bool:
    """Whether there is a list of at least one thing under each key: no label is made by nobody, or of nothing seen."""
    return all(isinstance(content.get(key), list) and content[key] for key in keys)


def leaks(seen: Sequence[str], valid_ids: Sequence[str]) -> list[str]:
    """The validation tiles among those seen, sorted."""
    return sorted(set(seen).intersection(valid_ids))


def seen_by(run: Run, fold: int | None) -> set[str]:
    """The training tiles that a trained fold may know: those of the other folds, and what its own labels knew.

    Raises InputError where the run's files contradict each other, so that nothing is proved.
    """
    table = folding.read(run / "folds.csv")
    outside = set(table["id"][table["fold"] == fold]) if fold is not None else set()
    if fold is not None:
        path = run.fold(fold) / "valid_ids.csv"
        try:
            validated = set(pd.read_csv(path, dtype=str, keep_default_na=False)["id"]) if path.exists() else set()
        except (ValueError, OSError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}): restore it, or label with another run") from None
        if validated != outside:
            raise InputError(
                f"leak: {path} and {run / 'folds.csv'} differ in {len(validated ^ outside)} tiles of fold {fold}, so "
                "what it trained on is not known: restore them, or label with another run"
            )
    return set(table["id"]) - outside | set(record_of(run, fold).get("seen", []))


def record_of(run: Run, fold: int | None) -> dict[str, Any]:
    """fold_K/pseudo.json of a trained fold; nothing where it was trained without pseudo-labels. Raises InputError.

    The file counts whatever the recipe says: a recipe is edited more easily than a training.
    """
    path = run.fold(fold) / "pseudo.json"
    if not path.exists() and not recipes.load(str(run / "recipe.toml")).pseudo_run:
        return {}
    record = read_json(path)
    if not _names(record, "seen", "tiles"):
        raise InputError(f"leak: {path} does not say what its labels knew: restore it, or label with another run")
    return record


def keep_record(fold_folder: Path, record: dict[str, Any]) -> None:
    """Write fold_K/pseudo.json. Raises InputError where the fold is under way with other labels than these."""
    path = fold_folder / "pseudo.json"
    if (fold_folder / "resume.pt").exists() and read_json(path).get("digest") != record["digest"]:
        raise InputError(
            f"{record['labels']} has changed since {fold_folder} began to train on it: "
            "make those labels again, or start a new run"
        )
    write_json(path, record)


def in_first_half(ids: Iterable[str]) -> np.ndarray:
    """Which tiles are of the first half of the test tiles, bool (n,): a function of the id alone, in any run."""
    return np.array([zlib.crc32(name.encode()) % 2 == 0 for name in ids], bool)


def check(stage: Stage, where: str) -> None:
    """Raises InputError for values of the stage's pseudo keys that cannot be; `where` is its key, "stages.0"."""
    if stage.pseudo not in MODES:
        raise InputError(f"recipe key {where}.pseudo {stage.pseudo!r} is unknown; use {', '.join(MODES)}")
    if not 0 < stage.pseudo_weight < math.inf:
        raise InputError(f"recipe key {where}.pseudo_weight must be above 0, not {stage.pseudo_weight}")
    if stage.pseudo != "mix" and stage.pseudo_weight != Stage().pseudo_weight:
        raise InputError(f"recipe key {where}.pseudo_weight means nothing without {where}.pseudo=mix")

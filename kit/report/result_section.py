"""The report's chapter on a run's result: its out-of-fold masks against the truth, and how far to trust them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from kit import recipe as recipes
from kit.data import folds as folding
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.report import csv_table, figures
from kit.report.changes import Judged
from kit.report.plates import Plate, Section, Table
from kit.runs import Run, read_json
from kit.scoring import decide, threshold
from kit.scoring.decision import Decision
from kit.scoring.metric import average_precision

SAMPLE = 100  # training tiles predicted again
COMPARED = 1000  # test tiles, at most, on which folds are compared
SEED = 0


def section(run: Run, tiles: Tiles, judged: Judged | None) -> Section:
    """What the run's files tell of its result, masks being those of its decision (0.5 where nothing was decided).

    `judged` are its out-of-fold tiles, None where it has none. What a run lacks is left out: ensembles have no weights,
    and one trained on every tile is predicted nowhere out of fold. Raises InputError for damaged files.
    """
    parts: list[Plate | Table] = []
    if judged:
        held = Held.of(run, tiles, judged)
        parts += _scores(run, held)
        parts += _trust(run, held)
        parts += _beside_training(run, tiles, held)
    parts += _agreement(run, tiles)
    return Section("result", "Result", parts)


@dataclass(frozen=True)
class Held:
    """The N out-of-fold tiles of a run: what it says of them, and the truth."""

    ids: pd.Series  # (N,)
    prob: np.ndarray  # (N, H, W) float16, memory-mapped
    masks: np.ndarray  # (N, H, W) bool, under the decision
    true: np.ndarray  # (N, H, W) bool
    folds: np.ndarray  # (N,) int
    constant: np.ndarray  # (N,) bool
    head: np.ndarray | None  # (N,) float: what the empty head says
    decision: Decision
    images: np.ndarray  # (N, H, W) uint8

    @classmethod
    def of(cls, run: Run, tiles: Tiles, judged: Judged) -> "Held":
        """Raises InputError for files that are damaged."""
        if judged.left_out:
            print(f"left out: mosaic rules of {run.path}, for mosaic.csv is not the one that they were measured on")
        ids, rows = pd.Series(judged.ids), judged.rows
        return cls(ids, judged.prob, judged.masks, tiles.masks[rows], decide.folds_of(run, ids),
                   tiles.constant("train")[rows], decide.empty_head(run, "oof", len(ids)), decide.decision_of(run),
                   tiles.train_images[rows])  # fmt: skip


def _scores(run: Run, held: Held) -> Iterator[Plate | Table]:
    """How good the masks are, and where they are not."""
    choice = held.decision.in_words().splitlines()[0]
    if len(held.ids) >= threshold.GROUPS:
        tuning = threshold.tune(held.prob, held.true, held.folds, held.constant)
        if held.decision.score is not None:
            tuning = replace(tuning, decision=held.decision)  # which had more ways to choose from
        yield Plate(f"{run.name}-threshold", "Does another threshold than 0.5 help?",
                    figures.score_against_threshold(tuning), "The line is measured on the tiles that it is chosen on, "
                    "the score in the title is not: it is nested.")  # fmt: skip
    if (run / "decision.csv").exists():
        ways = _ways(run / "decision.csv")
        yield Table(f"{run.name}-ways", "Which ways of deciding were compared?", ways,
                    "Each learns on the other folds; mosaic rules are measured on pairs of known tiles.")  # fmt: skip
    yield Plate(f"{run.name}-kinds", "On which tiles is it good, on which not?",
                figures.score_by_group(held.masks, held.true), f"{choice}. Intervals are over tiles.")  # fmt: skip
    if held.true.any():
        yield Plate(f"{run.name}-iou", "How well do the masks overlap the true ones?",
                    figures.iou_histogram(held.masks, held.true), "Tiles with salt only. A hit needs more than the "
                    "threshold, so a bar holds its right end and not its left.")  # fmt: skip
        yield Plate(f"{run.name}-boundary", "Are the errors near the boundary or far from it?",
                    figures.boundary_error(held.masks, held.true), _without_boundary(held))  # fmt: skip
    figure = figures.empty_confusion(held.masks, held.true)
    yield Plate(f"{run.name}-empty", "Is salt seen where there is none, or overlooked?", figure,
                "Both mistakes score 0 for the whole tile.")  # fmt: skip


def _without_boundary(held: Held) -> str:
    wrong, area = np.count_nonzero(held.masks != held.true, axis=(1, 2)), np.count_nonzero(held.true, axis=(1, 2))
    alone = (area == 0) | (area == held.true[0].size)
    return (
        f"Pixels beside the boundary have distance 1. {wrong[alone].sum():,} of {wrong.sum():,} wrong pixels lie in "
        f"the {alone.sum():,} tiles that are all salt or all without: they have no boundary."
    )


def _ways(path: Path) -> pd.DataFrame:
    """decision.csv as a reader wants it. Raises InputError for a damaged one."""
    numbers = dict.fromkeys(("score", "gain", "gain_low", "gain_high"), csv_table.NUMBER)
    ways = csv_table.read(path, {"name": csv_table.TEXT, **numbers, "used": csv_table.FLAG})
    return pd.DataFrame(
        {
            "way": ways["name"],
            "score": ways["score"].map("{:.4f}".format),
            "gain over 0.50": ways["gain"].map("{:+.4f}".format),
            "95 % interval": [f"{row.gain_low:+.4f} to {row.gain_high:+.4f}" for row in ways.itertuples()],
            "used": ways["used"].map({True: "yes", False: ""}),
        }
    )


def _trust(run: Run, held: Held) -> Iterator[Plate]:
    if held.head is None:
        empty, said_by = 1 - held.prob.max(axis=(1, 2)).astype(np.float64), "1 - its highest pixel"
    else:
        empty, said_by = held.head, "empty head"
    yield Plate(f"{run.name}-calibration", "Is it as often right as it says?",
                figures.calibration(held.prob, held.true, empty, said_by),
                "Below the dotted line it says too much, above it too little.")  # fmt: skip


def _beside_training(run: Run, tiles: Tiles, held: Held) -> Iterator[Plate]:
    """Tiles that one fold has trained on, predicted with its weights, beside its validation tiles."""
    fold = next((fold for fold in run.finished_folds() if fold is not None), None)
    if fold is None:
        print(f"left out: training tiles beside validation tiles, for {run.path} has no weights here")
        return
    table = folding.read(run / "folds.csv")
    seen = table["id"][table["fold"] != fold]
    ids = seen.sample(min(SAMPLE, len(seen)), random_state=SEED)
    rows = decide.rows_of(tiles.train_ids, ids, f"{run / 'folds.csv'}")
    masks, true, own = _predicted(run, tiles, fold, rows, held.decision), tiles.masks[rows], held.folds == fold
    scores = [average_precision(masks, true), average_precision(held.masks[own], held.true[own])]
    note = f"Weights of fold {fold}; {len(ids)} random tiles of those that it trained on, not augmented."
    yield Plate(f"{run.name}-overfitting", "Does it know its training tiles by heart?",
                figures.train_beside_valid(*scores), note)  # fmt: skip
    shown = {
        "Training": (tiles.train_images[rows], masks, true, ids.tolist()),
        "Validation": (held.images[own], held.masks[own], held.true[own], held.ids[own].tolist()),
    }
    yield Plate(f"{run.name}-worst", "What does it get wrong, even of what it trained on?", figures.worst(shown),
                "Training tiles that stay wrong are often labelled oddly.")  # fmt: skip


def _predicted(run: Run, tiles: Tiles, fold: int, rows: np.ndarray, decision: Decision) -> np.ndarray:
    """The masks of training tiles `rows` under the decision, before mosaic rules, by the weights of a fold."""
    from kit.inference.predict import fold_probabilities
    from kit.training.fold import weights_of

    recipe = recipes.load(str(run / "recipe.toml"))
    images, depth = tiles.train_images[rows], tiles.relative_depth("train")[rows]
    parts = list(fold_probabilities(run, recipe, fold, images, depth, recipe.tta, weights_of(run, fold)))
    prob, head = (np.concatenate(values).astype(np.float16) for values in zip(*parts, strict=True))
    return decision.masks(prob, tiles.constant("train")[rows], head)


def _agreement(run: Run, tiles: Tiles) -> Iterator[Plate]:
    """How alike the folds' masks of the same test tiles are, where two folds or more were predicted on these."""
    folders = predicted_folds(run, tiles)
    if len(folders) > 1:
        decision = decide.decision_of(run)
        rows = np.sort(np.random.default_rng(SEED).permutation(len(tiles.test_ids))[:COMPARED])
        constant = tiles.constant("test")[rows]
        masks: dict[str, np.ndarray] = {}
        for folder in folders:
            prob, head = (_rows(folder / name, rows) for name in ("test.npy", "test_empty.npy"))
            masks[folder.name.replace("_", " ")] = decision.masks(prob, constant, head)
        figure = figures.agreement(masks)
        yield Plate(f"{run.name}-agreement", "Do the folds agree on tiles that none has seen?", figure,
                    f"{len(rows):,} random test tiles. Two empty masks agree fully.")  # fmt: skip


def predicted_folds(run: Run, tiles: Tiles) -> list[Path]:
    """The folders of the folds whose predictions of these test tiles can be decided."""
    head = ["test_empty.npy"] if decide.decision_of(run).needs_head else []
    there = [
        folder
        for folder in sorted(run.path.glob("fold_*"))
        if all((folder / name).exists() for name in ("test.npy", "test.json", *head))
    ]
    return [folder for folder in there if read_json(folder / "test.json").get("data") == tiles.fingerprint]


def _rows(path: Path, rows: np.ndarray) -> np.ndarray:
    """Some rows of a file, without reading the others; nothing where there is no file. Raises InputError."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)[rows] if path.exists() else np.zeros(0)
    except (ValueError, OSError, EOFError, IndexError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it and predict again") from None

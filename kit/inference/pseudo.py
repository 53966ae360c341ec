"""Confident predictions of test tiles become labels that a fold may train on: chosen, audited, with their origin.

A fold's labels come from models that never saw its validation tiles: of each run the model of the same fold. torch is
needed only to look at mirrored views one by one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from kit import recipe as recipes
from kit.data import folds as folding
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.inference.labellers import Model, models_of, usable_of
from kit.runs import Run, forget_pages
from kit.scoring.decide import rows_of
from kit.training import pseudo as labels
from kit.training.command import folds_of

LOW, HIGH, CUT = 0.2, 0.8, 0.5
CLASSES = 11  # of coverage_class
CHUNK = 256  # tiles in memory at a time


@dataclass(frozen=True)
class Options:
    """What is labelled, and how. Raises InputError for numbers that cannot be."""

    confidence: float = 0.9  # the least
    most: int | None = None  # tiles in all; None = as many as the fold trains on
    soft: bool = False
    flips: bool = False  # each model's mirrored view counts as a model
    halves: bool = False  # a tile is labelled only by models that did not train on its label

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise InputError(f"--confidence must be above 0 and at most 1, not {self.confidence}")
        if self.most is not None and self.most < 1:
            raise InputError(f"--most must be 1 or more, not {self.most}")


@dataclass(frozen=True)
class Choice:
    """What is labelled for a fold: of N test tiles those in `rows`, rising, by M models."""

    fold: int | None
    models: Sequence[Model]
    usable: np.ndarray  # (M, N) bool: which model may label which tile
    rows: np.ndarray  # (n,) int
    confidence: np.ndarray  # (N,) float64
    classes: np.ndarray  # (N,) int, of coverage
    n_valid: int  # validation tiles of the fold


def folds_to_label(members: Sequence[Run], text: str) -> list[int | None]:
    """The folds that "all", "none", "0" or "0,2" means: all are those that every run has. Raises InputError."""
    for run in members:
        if (run / "ensemble.json").exists():
            raise InputError(f"{run.path} is an ensemble, which has no folds of its own: name its runs")
    if len({run.path.resolve() for run in members}) < len(members):
        raise InputError("a run is named twice: name each once")
    if text == "none":
        return [None]
    there = [fold for fold in members[0].finished_folds() if fold is not None]
    there = [fold for fold in there if all(fold in run.finished_folds() for run in members)]
    known = max((folding.read(run / "folds.csv")["fold"].max() + 1 for run in members), default=0)
    chosen = there if text == "all" else folds_of(text, int(known))
    lacking = [fold for fold in chosen if fold not in there]
    if not there and all(None in run.finished_folds() for run in members):
        names = " and ".join(str(run.path) for run in members)
        raise InputError(f"{names} trained on every tile and has no fold that validates: give --fold none")
    if lacking or not chosen:
        which = f"fold {lacking[0]}" if lacking else "a fold"
        raise InputError(f"not every run has finished {which}: go on with train.py --resume, or choose another --fold")
    return list(chosen)


def label(members: Sequence[Run], tiles: Tiles, folds: Sequence[int | None], options: Options) -> str:
    """Write runs/FIRST/pseudo/fold_K for the first run and each fold; what was done, in a line for each thing.

    All folds are chosen before the first is written.
    Raises InputError where a model saw a validation tile of its fold, predictions are missing, or nothing is sure.
    """
    table = folding.read(members[0] / "folds.csv")
    valid_ids = [table["id"][table["fold"] == fold].tolist() if fold is not None else [] for fold in folds]
    makers = [models_of(members, tiles, fold, ids) for fold, ids in zip(folds, valid_ids, strict=True)]
    chosen = [_choose(members, tiles, *each, options) for each in zip(folds, makers, valid_ids, strict=True)]
    return "\n".join(_write(members[0], tiles, choice, options) for choice in chosen)


def _choose(
    members: Sequence[Run],
    tiles: Tiles,
    fold: int | None,
    models: Sequence[Model],
    valid_ids: Sequence[str],
    options: Options,
) -> Choice:
    """The tiles that are labelled for a fold. Raises InputError where there are none."""
    usable = usable_of(models, tiles, options.halves)
    confidence, classes = _confidence(models, tiles, usable, options)
    ids = folding.read(members[0] / "folds.csv")["id"]
    known = rows_of(tiles.train_ids, ids[~ids.isin(valid_ids)], str(members[0] / "folds.csv"))
    quota = quotas(folding.coverage_class(tiles.masks[known]), options.most or len(known))
    eligible = confidence >= options.confidence
    rows = choose(confidence, classes, eligible, quota)
    if not len(rows):
        name = "none" if fold is None else fold
        where = f"{eligible.sum()} test tiles have a confidence of {options.confidence:g} in fold {name}"
        if eligible.any():
            raise InputError(f"{where}, none of a class that has a quota: give a greater --most")
        again = " ".join(run.name for run in members) + " --fold none" * (fold is None)
        lower = min(0.5, np.floor(100 * confidence.max()) / 100)  # so that there is one at least
        mend = f"python scripts/pseudo_label.py {again} --confidence {lower:g}" if lower > 0 else "train longer"
        raise InputError(f"{where}, the surest has {confidence.max():.2f}: {mend}")
    return Choice(fold, models, usable, rows, confidence, classes, len(valid_ids))


def _confidence(
    models: Sequence[Model], tiles: Tiles, usable: np.ndarray, options: Options
) -> tuple[np.ndarray, np.ndarray]:
    """The confidence in every test tile's label, (N,) float64, 0 for constant ones, and its class of coverage, int."""
    sure, agreed, classes = _judge(models, tiles, usable)
    sure[tiles.constant("test")] = 0
    if options.flips:
        rows = np.flatnonzero(sure >= options.confidence)
        agreed[rows] = _agreement_of_views(models, tiles, usable, rows)
    return sure * agreed, classes


def _write(first: Run, tiles: Tiles, choice: Choice, options: Options) -> str:
    """Write the labels of a fold and their origin; what was done, in words."""
    here, rows, models = labels.folder(first, choice.fold), choice.rows, choice.models
    sure, names = choice.confidence[rows], [model.name for model in models]
    makers = [" ".join(np.array(names)[choice.usable[:, row]]) for row in rows]
    table = pd.DataFrame({"id": tiles.test_ids[rows], "confidence": sure, "weight": sure, "models": makers})
    seen = sorted(set().union(*(model.seen for model in models)))
    source = {"models": names, "options": asdict(options), "seen": seen}
    labels.write(here, table, _masks(models, tiles, choice.usable, rows, options.soft), source)
    counts = np.bincount(choice.classes[rows], minlength=CLASSES)
    return (
        f"{here}: {len(rows):,} of {len(tiles.test_ids):,} test tiles, "
        f"{(choice.confidence >= options.confidence).sum():,} of them sure enough, "
        f"by {len(models)} model{'s' * (len(models) > 1)}\n"
        f"  by tenths of coverage, 0 to 10: {' '.join(map(str, counts))}\n"
        f"  audit: its models saw {len(seen):,} training tiles, "
        f"none of the {choice.n_valid:,} validation tiles"
    )


def decided(prob: np.ndarray) -> np.ndarray:
    """The share of pixels below 0.2 or above 0.8, (N,), of probabilities (N, H, W): the first place's confidence."""
    return ((prob < LOW) | (prob > HIGH)).mean(axis=(1, 2))


def agreement(masks: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The mean IoU over pairs of the views that count, (N,), of masks (V, N, H, W) bool; usable (V, N) bool.

    Two empty masks agree; 1 where only one view counts.
    """
    total, pairs = np.zeros(masks.shape[1]), np.zeros(masks.shape[1])
    for one, other in combinations(range(len(masks)), 2):
        shared = np.count_nonzero(masks[one] & masks[other], axis=(1, 2))
        joined = np.count_nonzero(masks[one] | masks[other], axis=(1, 2))
        both = usable[one] & usable[other]
        total += both * np.where(joined == 0, 1.0, shared / np.maximum(joined, 1))
        pairs += both
    return np.where(pairs == 0, 1.0, total / np.maximum(pairs, 1))


def quotas(classes: np.ndarray, most: int) -> np.ndarray:
    """How many of each class of coverage, (11,) int summing to `most`: the shares of training tiles' classes (n,)."""
    shares = np.cumsum(np.bincount(classes, minlength=CLASSES)) / len(classes)
    return np.diff(np.rint(shares * most).astype(int), prepend=0)


def choose(confidence: np.ndarray, classes: np.ndarray, eligible: np.ndarray, quota: np.ndarray) -> np.ndarray:
    """The tiles to label, (n,) rising indices: of each class (N,) the surest eligible ones, up to its quota (11,)."""
    order = np.argsort(-confidence, kind="stable")
    order = order[eligible[order]]
    return np.sort(np.concatenate([order[classes[order] == kind][: quota[kind]] for kind in range(CLASSES)]))


def _mean(prob: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The mean (N, H, W) float32 of probabilities (M, N, H, W) over the models that count, (M, N) bool."""
    weights = (usable / usable.sum(axis=0)).astype(np.float32)
    return (prob * weights[:, :, None, None]).sum(axis=0)


def _chunk(models: Sequence[Model], tiles: Tiles, rows: np.ndarray | slice) -> np.ndarray:
    """(M, b, H, W) float32. Raises InputError for what is no probability."""
    prob = np.stack([model.prob[rows] for model in models]).astype(np.float32)
    sound = ((prob >= 0) & (prob <= 1)).all(axis=(2, 3))
    if not sound.all():
        which, row = np.argwhere(~sound)[0]
        model = models[which]
        raise InputError(
            f"{model.run.fold(model.fold) / 'test.npy'}, id {tiles.test_ids[rows][row]}: not a probability (NaN, or "
            f"outside 0 to 1): delete it and run python scripts/predict.py {model.run.given}, or train again"
        )
    for model in models:
        forget_pages(model.prob)
    return prob


def _judge(models: Sequence[Model], tiles: Tiles, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every test tile the share of decided pixels, the models' agreement, the class of the mean's mask.

    (N,) float64, float64, int.
    """
    sure, agreed, classes = np.empty(usable.shape[1]), np.empty(usable.shape[1]), np.empty(usable.shape[1], int)
    for first in range(0, len(sure), CHUNK):
        part = slice(first, first + CHUNK)
        prob = _chunk(models, tiles, part)
        mean = _mean(prob, usable[:, part])
        sure[part] = decided(mean)
        agreed[part] = agreement(prob > CUT, usable[:, part])
        classes[part] = folding.coverage_class(mean > CUT)
    return sure, agreed, classes


def _agreement_of_views(models: Sequence[Model], tiles: Tiles, usable: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The agreement (n,) on the tiles `rows` (n,) with the plain and the mirrored view of each model as two.

    The plain view is predicted; the mirrored one is what it leaves of the mean of both, which is there.
    """
    from kit.inference.predict import fold_probabilities

    images, depth = tiles.test_images[rows], tiles.relative_depth("test")[rows]
    plain = []
    for model in models:
        if model.made["tta"] != "hflip":
            raise InputError(f"--flips: {model.name} was not mirrored: run predict.py {model.run.given} --tta hflip")
        recipe = recipes.load(str(model.run / "recipe.toml"))
        plain.append(fold_probabilities(model.run, recipe, model.fold, images, depth, "none", model.made["weights"]))
    found: list[float] = []
    for parts in zip(*plain, strict=True):
        here = rows[len(found) :][: len(parts[0].prob)]
        views = []
        for model, part in zip(models, parts, strict=True):
            mirrored = 2 * model.prob[here].astype(np.float32) - part.prob
            views += [part.prob > CUT, mirrored > CUT]
        found += agreement(np.stack(views), np.repeat(usable[:, here], 2, axis=0)).tolist()
    return np.array(found)


def _masks(models: Sequence[Model], tiles: Tiles, usable: np.ndarray, rows: np.ndarray, soft: bool) -> np.ndarray:
    """The labels (n, H, W) of the tiles `rows`: the mean's mask, bool, or the mean itself, float16."""
    masks = np.empty((len(rows), *models[0].prob.shape[1:]), np.float16 if soft else bool)
    for first in range(0, len(rows), CHUNK):
        here = rows[first : first + CHUNK]
        mean = _mean(_chunk(models, tiles, here), usable[:, here])
        masks[first : first + CHUNK] = mean if soft else mean > CUT
    return masks

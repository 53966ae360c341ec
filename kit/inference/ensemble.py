"""Several runs become one: a run directory of its own with their mean, their weighted mean or their vote."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kit import recipe as recipes
from kit import runs
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.inference.selection import Counts, Score, choose, shares
from kit.recipe import Recipe
from kit.runs import Run, write_json, write_probabilities, write_text
from kit.scoring import decide
from kit.scoring.decision import FILES, Decision
from kit.scoring.metric import average_precision
from kit.scoring.threshold import GROUPS

CHUNK = 128  # tiles in memory at a time
EMPTY = ("oof_empty.npy", "test_empty.npy")


@dataclass(frozen=True)
class Ensemble:
    """What was combined, how, and the numbers that justify it: runs/NAME/ensemble.json.

    Scores are means over the out-of-fold tiles that the runs share, at threshold 0.5; None where a run has none.
    """

    runs: tuple[str, ...]
    method: str  # mean, weighted, vote
    weights: tuple[float, ...]  # of the test predictions
    scores: tuple[float, ...] | None = None  # of each run alone; in a vote of its own masks
    score: float | None = None  # of the ensemble; where weights were found, each fold with those of the others
    reason: str = ""

    def in_words(self) -> str:
        """A line for each run, one for the ensemble, and one with the reason for its weights."""
        scores = self.scores or (None,) * len(self.runs)
        rows = zip(self.runs, scores, self.weights, strict=True)
        lines = [f"{name:<32}{_number('score', score)}{_number('weight', weight)}" for name, score, weight in rows]
        lines.append(f"{self.method:<32}{_number('score', self.score)}")
        return "\n".join([*lines, *([self.reason] if self.reason else [])])


def _number(name: str, value: float | None) -> str:
    return "" if value is None else f"  {name} {value:.4f}"


def open_run(name: str) -> Run:
    """The directory to write an ensemble to: a new one, or that of an ensemble, which is made anew."""
    run = Run(Path("runs") / name)
    if (run / "ensemble.json").exists():
        return run
    if (run / "recipe.toml").exists():
        raise InputError(f"{run.path} is a training: choose another --run for the ensemble")
    return runs.new_run(name)


def combine(run: Run, members: Sequence[Run], tiles: Tiles, data: Path, vote: bool = False) -> Ensemble:
    """Write `run` from two runs or more, trained and predicted on `tiles`, which were read from the folder `data`.

    test.npy is the mean of theirs, weighted where weights are shown to gain; oof.npy, of the tiles that all have out
    of fold, the same with each fold weighted by what the other folds chose. With `vote` a pixel's value is the share
    of the runs whose own decision makes it salt: above 0.5 is the majority, half of them is not. Where every run says
    which tiles are empty (empty heads), the mean of that, with the same weights, goes into oof_empty.npy and
    test_empty.npy.
    Raises InputError for fewer than two runs, one run twice, other tiles, and predictions that are missing or damaged.
    """
    check(run, members, tiles)
    oof, folds = _out_of_fold(members, tiles, vote)
    test = [_Part.of(member, "test", tiles, pd.Series(tiles.test_ids), vote) for member in members]
    result, by_tile = _judge(members, oof, folds, tiles, vote)
    for name in ("recipe.toml", "ensemble.json", "oof.npy", "oof_ids.csv", *EMPTY, *FILES):
        (run / name).unlink(missing_ok=True)
    if oof:
        _write(run, "oof", oof, by_tile, folds["id"])
        write_text(run / "folds.csv", folds.to_csv(index=False))
    _write(run, "test", test, np.tile(result.weights, (len(tiles.test_ids), 1)), pd.Series(tiles.test_ids))
    _describe(run, result, tiles, data)
    return result


@dataclass(frozen=True)
class _Part:
    """What one run says of the ensemble's tiles, in their order."""

    prob: np.ndarray  # (n, H, W), memory-mapped
    rows: np.ndarray  # (N,) int, where each of the ensemble's tiles stands in it
    constant: np.ndarray  # (N,) bool
    decision: Decision | None  # the run's own, where it votes
    head: np.ndarray | None  # (n,) what its empty head says, where it has one

    @classmethod
    def of(cls, run: Run, split: str, tiles: Tiles, ids: pd.Series, vote: bool) -> "_Part":
        prob, own = decide.predictions(run, split, tiles, f"run python scripts/predict.py {run.given}")
        of_data = "train" if split == "oof" else "test"
        constant = tiles.constant(of_data)[decide.rows_of(tiles.ids(of_data), ids, f"{run / split}_ids.csv")]
        rows = pd.Index(own).get_indexer(pd.Index(ids))
        if (rows < 0).any():
            raise InputError(f"{run.path} lacks the test tile {ids[int(np.argmin(rows))]}: predict it again")
        decision = decide.decision_of(run) if vote else None
        if decision:
            decide.needed_head(run, split, len(own), decision)  # says so where it is missing
        head = decide.empty_head(run, split, len(own))
        return cls(prob, rows, constant, decision, head)

    def values(self, part: slice) -> np.ndarray:
        """Probabilities, or votes of 0 and 1, (b, H, W) float32."""
        prob = self.prob[self.rows[part]]
        if self.decision is None:
            return prob.astype(np.float32)
        head = None if self.head is None else self.head[self.rows[part]]
        return self.decision.masks(prob, self.constant[part], head).astype(np.float32)


def check(run: Run, members: Sequence[Run], tiles: Tiles) -> None:
    """Raises InputError where these runs cannot become the ensemble `run`, whatever they predict."""
    places = [member.path.resolve() for member in members]
    if len(set(places)) < max(2, len(places)):
        raise InputError("an ensemble needs two runs or more, each named once")
    if run.path.resolve() in places:
        raise InputError(f"{run.path} cannot be a run of itself: choose another --run")
    for member in members:
        decide.check_tiles(member, tiles)


def _out_of_fold(members: Sequence[Run], tiles: Tiles, vote: bool) -> tuple[list[_Part], pd.DataFrame]:
    """The runs' out-of-fold predictions and the tiles (id, fold) that all have; neither where a run has none.

    The folds are those of the first run. Where another run was dealt other folds, its predictions are out of fold all
    the same, and for the search any division of the tiles will do.
    """
    if not all((member / "oof.npy").exists() for member in members):
        return [], pd.DataFrame({"id": [], "fold": []})
    shared = set(tiles.train_ids)
    for member in members:
        shared &= set(decide.predictions(member, "oof", tiles, "train it again")[1])
    ids = pd.Series([name for name in tiles.train_ids if name in shared], dtype=object)
    if len(ids) < GROUPS:
        raise InputError(
            f"the runs share {len(ids)} out-of-fold tiles, {GROUPS} at least are needed: train equal folds"
        )
    parts = [_Part.of(member, "oof", tiles, ids, vote) for member in members]
    return parts, pd.DataFrame({"id": ids, "fold": decide.folds_of(members[0], ids)})


def _judge(
    members: Sequence[Run], oof: list[_Part], folds: pd.DataFrame, tiles: Tiles, vote: bool
) -> tuple[Ensemble, np.ndarray]:
    """The ensemble, and the weights (N, R) of its out-of-fold tiles."""
    n = len(members)
    names, equal = tuple(str(member.path) for member in members), (1 / n,) * n
    method = "vote" if vote else "mean"
    by_tile = np.tile(equal, (len(folds), 1))
    if not oof:
        return Ensemble(names, method, equal, reason="equal weights: not every run has oof.npy"), by_tile
    score = _score_of(oof, tiles.masks[decide.rows_of(tiles.train_ids, folds["id"], "folds")])
    alone = tuple(float(score(tuple(int(i == run) for i in range(n))).mean()) for run in range(n))
    if vote:
        return Ensemble(names, method, equal, alone, float(score((1,) * n).mean())), by_tile
    found = choose(score, n, folds["fold"].to_numpy())
    method, own = ("weighted", found.nested) if found.accepted else ("mean", found.equal)
    return Ensemble(names, method, tuple(found.weights.tolist()), alone, own, found.in_words()), found.by_tile


def _score_of(parts: Sequence[_Part], true: np.ndarray) -> Score:
    """The score of each tile, (N,), under the mean with given weights, at threshold 0.5; true is bool (N, H, W).

    Tiles of one grey value are emptied, as every decision does.
    """
    shown = ~parts[0].constant[:, None, None]

    def score(counts: Counts) -> np.ndarray:
        means = _means(parts, np.tile(shares(counts), (len(true), 1)))
        return np.concatenate([average_precision((mean > 0.5) & shown[part], true[part]) for part, mean in means])

    return score


def _means(parts: Sequence[_Part], weights: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield which tiles, and their mean (b, H, W) float16, as it is written, with the weights (N, R) of each tile."""
    for first in range(0, len(weights), CHUNK):
        part = slice(first, first + CHUNK)
        each = weights[part].T.astype(np.float32)[:, :, None, None]
        used = [(weight, run) for weight, run in zip(each, parts, strict=True) if weight.any()]
        yield part, sum(weight * run.values(part) for weight, run in used).astype(np.float16)


def _write(run: Run, split: str, parts: Sequence[_Part], weights: np.ndarray, ids: pd.Series) -> None:
    shape = (len(ids), *parts[0].prob.shape[1:])
    write_probabilities(run / f"{split}.npy", shape, (mean for _, mean in _means(parts, weights)))
    write_text(run / f"{split}_ids.csv", pd.DataFrame({"id": ids}).to_csv(index=False))
    heads = [part.head[part.rows] for part in parts if part.head is not None]
    if len(heads) == len(parts):
        empty = (weights * np.stack(heads, 1)).sum(1, dtype=np.float32).astype(np.float16)
        write_probabilities(run / f"{split}_empty.npy", empty.shape, [empty])


def _describe(run: Run, result: Ensemble, tiles: Tiles, data: Path) -> None:
    """The files that make the folder a run like any other; recipe.toml comes last, by which runs are found."""
    request = {"data": str(data.resolve()), "fingerprint": tiles.fingerprint, "folds": []}
    write_json(run / "environment.json", request | runs.environment())
    write_text(run / "command.txt", runs.command_line() + "\n")
    write_json(run / "scores.json", {"folds": {}} | ({} if result.score is None else {"mean": round(result.score, 5)}))
    write_json(run / "ensemble.json", asdict(result))
    recipe = Recipe(name="ensemble", source=f"{result.method} of {', '.join(Path(name).name for name in result.runs)}")
    write_text(run / "recipe.toml", recipes.dumps(recipe))

"""Folds from start to finish: train or resume, choose the weights, write out-of-fold probabilities and scores."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner

from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.nets import model
from kit.nets.tta import probabilities
from kit.recipe import Recipe
from kit.runs import Run, read_json, write_json, write_probabilities, write_text
from kit.scoring.metric import KINDS, average_precision, kind_of
from kit.training import averaging, checkpoint
from kit.training.checkpoint import State
from kit.training.learner import fit, make_learner, make_net, settle
from kit.training.loaders import TileDataset


def fold_name(fold: int | None) -> str:
    return "none" if fold is None else str(fold)


def train_folds(
    run: Run,
    recipe: Recipe,
    tiles: Tiles,
    folds: pd.DataFrame,
    which: Sequence[int | None],
    tensorboard: bool = False,
    learner: Learner | None = None,
) -> bool:
    """Train the folds `which` of a run, going on where one was cut; finished ones are left alone.

    `learner`, if given, is the one of the first fold to train. False when Ctrl-C or SIGTERM stopped it.
    """
    for fold in which:
        if fold in run.finished_folds():
            print(f"fold {fold_name(fold)} is done already")
            continue
        learn, learner = learner or make_learner(recipe, tiles, fold, folds), None
        train, valid = learn.dls.train.dataset, learn.dls.valid.dataset
        print(f"fold {fold_name(fold)}: {len(train):,} tiles to train on, {len(valid):,} to validate, "
              f"{model.parameter_count(learn.model):,} parameters, {learn.dls.device}, "
              f"{str(learn.model.precision or 'float32').removeprefix('torch.')}", flush=True)  # fmt: skip
        folder = run.fold(fold)
        folder.mkdir(parents=True, exist_ok=True)
        state = fit(learn, recipe, folder, resume=True, tensorboard=tensorboard)
        if state is None:
            return False
        finish_fold(run, recipe, folds, fold, learn, state)
    return True


def finish_fold(run: Run, recipe: Recipe, folds: pd.DataFrame, fold: int | None, learn: Learner, state: State) -> None:
    """Choose the fold's weights on its validation tiles, predict those, and write it all down; drops resume.pt."""
    folder, valid = run.fold(fold), learn.dls.valid.dataset

    def predict(weights: str, tta: str) -> np.ndarray:
        nets = _nets(learn.model, run.weights(fold, weights), recipe.snapshot_weights)
        return _mean_probability(nets, valid, tta)

    names = _write_candidates(learn, recipe, state, folder)
    scores = {name: _score(predict(name, "none"), valid) if len(valid) else None for name in names}
    used = _choose(scores)
    entry: dict[str, Any] = {"weights": used, "candidates": scores}
    if len(valid):
        prob = predict(used, recipe.tta).astype(np.float16)
        write_probabilities(folder / "valid.npy", prob.shape, [prob])
        ids = folds["id"][folds["fold"] == fold]
        write_text(folder / "valid_ids.csv", ids.to_csv(index=False))
        entry |= score_by_kind(prob > 0.5, valid.masks.astype(bool))
    tiles_seen = sum(row["tiles"] for row in state.rows)
    entry |= {"epochs": len(state.rows), "seconds": round(state.seconds, 1)}
    entry["tiles_per_second"] = round(tiles_seen / max(state.seconds, 1e-9), 2)
    _record(run, fold, entry)
    (folder / "resume.pt").unlink(missing_ok=True)
    if len(valid):
        kinds = ", ".join(f"{kind} {value['score']:.3f}" for kind, value in entry["kinds"].items())
        print(f"fold {fold_name(fold)}: score {entry['score']:.4f} ({used} weights, {recipe.tta} TTA); {kinds}")


def score_by_kind(pred: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """The score of masks (N, H, W) against the truth, in all and by kind of tile with the number of tiles."""
    each, kinds = average_precision(pred, true), kind_of(true)
    by_kind = {
        kind: {"tiles": int((kinds == kind).sum()), "score": round(float(each[kinds == kind].mean()), 5)}
        for kind in KINDS
        if (kinds == kind).any()
    }
    return {"score": round(float(each.mean()), 5), "kinds": by_kind}


def _write_candidates(learn: Learner, recipe: Recipe, state: State, folder: Path) -> list[str]:
    """Write the weights there are to choose from, best and snapshots being there already; their names, see _choose."""
    net = learn.model
    checkpoint.save_weights(folder / "last.safetensors", net.state_dict())
    if state.averaged_count:
        net.load_state_dict(state.averaged)
        if state.averaging == averaging.SWA:  # an EMA has averaged the statistics of many steps already
            _recompute_batch_norm(learn, recipe, state)
        checkpoint.save_weights(folder / "averaged.safetensors", net.state_dict())
    checkpoint.drop_old_snapshots(folder, state)
    there = {
        "averaged": state.averaged_count > 0,
        "snapshots": bool(state.snapshots),
        "last": True,
        "best": (folder / "best.safetensors").exists(),
    }
    return [name for name, is_there in there.items() if is_there]


def _recompute_batch_norm(learn: Learner, recipe: Recipe, state: State) -> None:
    """One pass over the training tiles with the averaged weights."""
    loader = learn.dls.train
    loader.bs = min(recipe.stages[-1].bs, loader.n)
    loader.window(state.epoch, 0, loader.steps_per_epoch)
    torch.manual_seed(recipe.seed)  # dropout is active here
    averaging.recompute_batch_norm(learn.model, (inputs for *inputs, _ in loader))


def _choose(scores: dict[str, float | None]) -> str:
    """The highest score; without validation, or on a tie, the first: averaged, snapshots, last, best."""
    return max(scores, key=lambda name: scores[name] or 0.0)


def _score(prob: np.ndarray, valid: TileDataset) -> float:
    """At threshold 0.5."""
    return round(float(average_precision(prob > 0.5, valid.masks.astype(bool)).mean()), 5)


def _mean_probability(nets: Iterator[tuple[float, model.TileNet]], valid: TileDataset, tta: str) -> np.ndarray:
    """The weighted mean over nets of the probabilities of `valid`, (N, H, W) float32."""
    mean = np.zeros(valid.images.shape, np.float32)
    for weight, net in nets:
        first = 0
        for part in probabilities(net, valid.images, tta, valid.depth):
            mean[first : first + len(part)] += weight * part
            first += len(part)
    return mean


def _nets(net: model.TileNet, files: Sequence[Path], how: str) -> Iterator[tuple[float, model.TileNet]]:
    """`net` filled from one file after another, each with the weight of its predictions; one alone has weight 1."""
    for weight, path in zip(averaging.snapshot_weights(len(files), how), files, strict=True):
        checkpoint.load_weights(path, net)
        settle()
        yield weight, net.eval()


def _record(run: Run, fold: int | None, entry: dict[str, Any]) -> None:
    """Add a finished fold to scores.json, and the folds so far to the run's out-of-fold files."""
    scores = read_json(run / "scores.json") if (run / "scores.json").exists() else {"folds": {}}
    scores["folds"][fold_name(fold)] = entry
    scores["folds"] = dict(sorted(scores["folds"].items(), key=lambda item: (len(item[0]), item[0])))
    values = [fold["score"] for fold in scores["folds"].values() if "score" in fold]
    if values:
        scores |= {"mean": round(float(np.mean(values)), 5), "std": round(float(np.std(values)), 5)}
        validated = [name for name, fold in scores["folds"].items() if "score" in fold]
        parts = [run.fold(int(name)) for name in validated]
        probs = [np.load(part / "valid.npy", allow_pickle=False) for part in parts]
        write_probabilities(run / "oof.npy", (sum(map(len, probs)), *probs[0].shape[1:]), probs)
        ids = pd.concat([pd.read_csv(part / "valid_ids.csv", dtype=str, keep_default_na=False) for part in parts])
        write_text(run / "oof_ids.csv", ids.to_csv(index=False))
    for name in ("test.npy", "test_ids.csv", "decision.json", "decision.png"):  # made from fewer folds
        (run / name).unlink(missing_ok=True)
    write_json(run / "scores.json", scores)


def load_nets(
    run: Run, recipe: Recipe, fold: int | None, weights: str | None = None
) -> Callable[[], Iterator[tuple[float, model.TileNet]]]:
    """A function that gives the nets of a finished fold one after another, each with the weight of its prediction.

    weights: "best", "last", "averaged" or "snapshots"; None for those that scores.json says to use. The nets are on the
    device and ready to predict; their weights sum to 1, and only snapshots are more than one. One net is in memory: use
    it before asking for the next, which is the same object filled anew. Raises InputError for weights that the fold
    does not have.
    """
    entry = read_json(run / "scores.json")["folds"][fold_name(fold)]
    name = weights or entry["weights"]
    if name not in entry["candidates"]:
        there = ", ".join(entry["candidates"])
        raise InputError(f"fold {fold_name(fold)} of {run.path} has no {name!r} weights: choose one of {there}")
    files = run.weights(fold, name)
    if not files:
        raise InputError(f"{run.fold(fold) / name} is empty: choose other weights, or train the fold again")
    net = make_net(recipe.from_scratch())
    return lambda: _nets(net, files, recipe.snapshot_weights)

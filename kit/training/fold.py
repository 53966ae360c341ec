"""Folds from start to finish: train or resume, choose the weights, write out-of-fold probabilities and scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner
from torch import nn
from torch.optim.swa_utils import update_bn

from kit.data.tiles import Tiles
from kit.nets import model
from kit.nets.tta import probabilities
from kit.recipe import Recipe
from kit.runs import Run, read_json, write_json, write_probabilities, write_text
from kit.scoring.metric import KINDS, average_precision, kind_of
from kit.training import checkpoint
from kit.training.checkpoint import State
from kit.training.learner import fit, make_learner, make_net


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
    scores = _candidates(learn, recipe, state, folder)
    used = _choose(scores)
    checkpoint.load_weights(folder / f"{used}.safetensors", learn.model)
    entry: dict[str, Any] = {"weights": used, "candidates": scores}
    if len(valid):
        prob = np.concatenate(list(probabilities(learn.model, valid.images, recipe.tta))).astype(np.float16)
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


def _candidates(learn: Learner, recipe: Recipe, state: State, folder: Path) -> dict[str, float | None]:
    """The weights there are to choose from, each saved, with its validation score (no TTA, threshold 0.5)."""
    net, valid = learn.model, learn.dls.valid.dataset
    checkpoint.save_weights(folder / "last.safetensors", net.state_dict())
    scores: dict[str, float | None] = {"last": _score(net, valid)}
    if state.averaged_count:
        net.load_state_dict(state.averaged)
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
            _recompute_batch_norm(learn, recipe, state)
        checkpoint.save_weights(folder / "averaged.safetensors", net.state_dict())
        scores["averaged"] = _score(net, valid)
    if (folder / "best.safetensors").exists():
        checkpoint.load_weights(folder / "best.safetensors", net)
        scores["best"] = _score(net, valid)
    return scores


def _recompute_batch_norm(learn: Learner, recipe: Recipe, state: State) -> None:
    """One pass over the training tiles: a mean of weights has other activations than any of the weights in it."""
    loader = learn.dls.train
    loader.bs = min(recipe.stages[-1].bs, loader.n)
    loader.window(state.epoch, 0, loader.steps_per_epoch)
    torch.manual_seed(recipe.seed)  # dropout is active here
    update_bn(loader, learn.model)


def _choose(scores: dict[str, float | None]) -> str:
    """The highest score; without validation, or on a tie, averaged before last before best."""
    preference = [name for name in ("averaged", "last", "best") if name in scores]
    return max(preference, key=lambda name: scores[name] or 0.0)


def _score(net: nn.Module, valid) -> float | None:
    if not len(valid):
        return None
    pred = np.concatenate([prob > 0.5 for prob in probabilities(net, valid.images, "none")])
    return round(float(average_precision(pred, valid.masks.astype(bool)).mean()), 5)


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


def load_net(run: Run, recipe: Recipe, fold: int | None) -> model.TileNet:
    """The net of a finished fold with the weights that scores.json says to use, on the device, ready to predict."""
    used = read_json(run / "scores.json")["folds"][fold_name(fold)]["weights"]
    net = make_net(recipe.from_scratch())
    checkpoint.load_weights(run.fold(fold) / f"{used}.safetensors", net)
    return net.eval()

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
from kit.nets.tta import Prediction, mean_probability
from kit.recipe import Recipe, Stage
from kit.runs import Run, exclusive, has_rows, write_json, write_probabilities, write_text
from kit.scoring.decision import FILES
from kit.scoring.metric import KINDS, average_precision, kind_of
from kit.training import averaging, checkpoint, pseudo
from kit.training.checkpoint import State
from kit.training.learner import fit, make_learner, make_net, settle
from kit.training.loaders import TileDataset
from kit.training.schedules import CYCLIC


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
    _check_scores(run)
    for fold in which:
        if fold in run.finished_folds():
            print(f"fold {fold_name(fold)} is done already")
            continue
        learn, learner = learner or make_learner(recipe, tiles, fold, folds), None
        train, valid = learn.dls.train.dataset, learn.dls.valid.dataset
        labelled = f" and {train.n_pseudo:,} pseudo-labelled ones" if train.n_pseudo else ""
        shown = "".join(f", {loader.n:,} without labels" for loader in learn.dls.loaders[2:])
        print(f"fold {fold_name(fold)}: {train.n_tiles:,} tiles{labelled} to train on{shown}, "
              f"{len(valid):,} to validate, {model.parameter_count(learn.model):,} parameters, {learn.dls.device}, "
              f"{str(learn.model.precision or 'float32').removeprefix('torch.')}", flush=True)  # fmt: skip
        folder = run.fold(fold)
        folder.mkdir(parents=True, exist_ok=True)
        if train.record:
            pseudo.keep_record(folder, train.record)
        state = fit(learn, recipe, folder, resume=True, tensorboard=tensorboard)
        if state is None:
            return False
        finish_fold(run, recipe, folds, fold, learn, state)
    _join_again(run)
    return True


def _check_scores(run: Run) -> None:
    """Raises InputError where scores.json has lost a fold that was trained to its end."""
    known = run.scores()["folds"]
    for folder in sorted(run.path.glob("fold_*")):
        ended = (folder / "last.safetensors").exists() and not (folder / "resume.pt").exists()
        if ended and folder.name.removeprefix("fold_") not in known:
            raise InputError(
                f"{folder} was trained to its end, but {run / 'scores.json'} does not say so: restore that file, "
                "or delete the folder to train it again"
            )


def finish_fold(run: Run, recipe: Recipe, folds: pd.DataFrame, fold: int | None, learn: Learner, state: State) -> None:
    """Choose the fold's weights on its validation tiles, predict those, and write it all down; drops resume.pt."""
    folder, valid = run.fold(fold), learn.dls.valid.dataset

    def predict(weights: str, tta: str) -> Prediction:
        nets = _nets(learn.model, run.weights(fold, weights), recipe.snapshot_weights)
        return mean_probability(nets, valid.images, tta, valid.depth)

    names = _write_candidates(learn, recipe, state, folder)
    scores = _scores(names, state, lambda weights: _score(predict(weights, "none").prob, valid), len(valid))
    used = _choose(scores)
    entry: dict[str, Any] = {"weights": used, "candidates": scores}
    if len(valid):
        found = predict(used, recipe.tta)
        prob = found.prob.astype(np.float16)
        write_probabilities(folder / "valid.npy", prob.shape, [prob])
        if recipe.salt.empty:
            write_probabilities(folder / "empty.npy", found.empty.shape, [found.empty])
        ids = folds["id"][folds["fold"] == fold]
        write_text(folder / "valid_ids.csv", ids.to_csv(index=False))
        entry |= score_by_kind(prob > 0.5, valid.masks.astype(bool))
    tiles_seen = sum(row["tiles"] for row in state.rows)
    entry |= {"epochs": len(state.rows), "seconds": round(state.seconds, 1)}
    entry["tiles_per_second"] = round(tiles_seen / max(state.seconds, 1e-9), 2)
    with exclusive(run / ".scores.lock"):  # another fold may end at the same time, on another GPU
        _record(run, fold, entry)
    (folder / "resume.pt").unlink(missing_ok=True)
    if len(valid):
        kinds = ", ".join(f"{kind} {value['score']:.3f}" for kind, value in entry["kinds"].items())
        print(f"fold {fold_name(fold)}: score {entry['score']:.4f} ({used} weights, {recipe.tta} TTA); {kinds}")
    if recipe.stages[-1].snapshots and not state.snapshots:
        print(f"fold {fold_name(fold)}: the last stage kept no snapshots: {_why_no_snapshots(recipe.stages[-1])}")


def _why_no_snapshots(stage: Stage) -> str:
    if stage.schedule in CYCLIC:
        return "it ended within its first cycle"
    return f"none of its epochs had a new best score (the schedules {' and '.join(CYCLIC)} keep the ends of cycles)"


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
    loader.serve(next(stage for stage in reversed(recipe.stages) if recipe.trains(stage)))
    loader.window(state.epoch, 0, loader.steps_per_epoch)
    torch.manual_seed(recipe.seed)  # dropout is active here
    averaging.recompute_batch_norm(learn.model, (inputs for *inputs, _ in loader))


def _scores(names: Sequence[str], state: State, score: Callable[[str], float], n_valid: int) -> dict[str, float | None]:
    """What each of the weights scores on the validation tiles.

    The last ones had it from their epoch, and so had the best ones where that is the same. Those of an earlier epoch
    are scored again: a kill after they were written and before resume.pt leaves them newer than the history.
    """
    if not n_valid:
        return dict.fromkeys(names)
    last = round(state.rows[-1]["score"], 5)
    best_is_last = max(state.rows, key=lambda row: row["score"]) is state.rows[-1]
    known = ("last", "best") if best_is_last else ("last",)
    return {name: last if name in known else score(name) for name in names}


def _choose(scores: dict[str, float | None]) -> str:
    """The highest score; without validation, or on a tie, the first: averaged, snapshots, last, best."""
    return max(scores, key=lambda name: scores[name] or 0.0)


def _score(prob: np.ndarray, valid: TileDataset) -> float:
    """At threshold 0.5."""
    return round(float(average_precision(prob > 0.5, valid.masks.astype(bool)).mean()), 5)


def _nets(net: model.TileNet, files: Sequence[Path], how: str) -> Iterator[tuple[float, model.TileNet]]:
    """`net` filled from one file after another, each with the weight of its predictions; one alone has weight 1."""
    for weight, path in zip(averaging.snapshot_weights(len(files), how), files, strict=True):
        checkpoint.load_weights(path, net)
        settle()
        yield weight, net.eval()


def _record(run: Run, fold: int | None, entry: dict[str, Any]) -> None:
    """Add a finished fold to scores.json, and the folds so far to the run's out-of-fold files."""
    scores = run.scores()
    scores["folds"][fold_name(fold)] = entry
    scores["folds"] = dict(sorted(scores["folds"].items(), key=lambda item: (len(item[0]), item[0])))
    values = [fold["score"] for fold in scores["folds"].values() if "score" in fold]
    if values:
        scores |= {"mean": round(float(np.mean(values)), 5), "std": round(float(np.std(values)), 5)}
        _join_folds(run, scores)
    # made from fewer folds
    for name in ("test.npy", "test_empty.npy", "test_ids.csv", *FILES):
        (run / name).unlink(missing_ok=True)
    write_json(run / "scores.json", scores)


def _validated(run: Run, scores: dict[str, Any]) -> list[Path]:
    """The folders of the folds that have out-of-fold predictions, in order."""
    return [run.fold(int(name)) for name, entry in scores["folds"].items() if "score" in entry]


def _to_join(parts: list[Path]) -> dict[str, str]:
    """The out-of-fold arrays that these folders make together, each with its name in a folder."""
    has_heads = all((part / "empty.npy").exists() for part in parts)
    return {"oof.npy": "valid.npy"} | ({"oof_empty.npy": "empty.npy"} if has_heads else {})


def _join_folds(run: Run, scores: dict[str, Any]) -> None:
    """Put the out-of-fold files of a run together from those of its folds."""
    parts = _validated(run, scores)
    for whole, part_of_it in _to_join(parts).items():
        _join([part / part_of_it for part in parts], run / whole)
    write_text(run / "oof_ids.csv", pd.concat(map(_valid_ids, parts)).to_csv(index=False))


def _valid_ids(folder: Path) -> pd.DataFrame:
    """valid_ids.csv of a fold, (id). Raises InputError."""
    try:
        return pd.read_csv(folder / "valid_ids.csv", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'valid_ids.csv'} is missing or damaged ({error}): restore it") from None


def _join_again(run: Run) -> None:
    """Where out-of-fold files of a run were lost or cut off since its folds ended."""
    scores = run.scores()
    parts, ids = _validated(run, scores), run / "oof_ids.csv"
    count = sum(map(len, map(_valid_ids, parts)))
    whole = ids.exists() and len(ids.read_text().splitlines()) == count + 1
    if parts and not (whole and all(has_rows(run / name, count) for name in _to_join(parts))):
        _join_folds(run, scores)
        print(f"put together again: {run / 'oof.npy'}")


def _join(parts: Sequence[Path], out: Path) -> None:
    """Write the rows of several .npy files, in order, as one. Raises InputError where one is missing or damaged."""
    try:
        arrays = [np.load(part, allow_pickle=False) for part in parts]
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"predictions of a fold are missing or damaged ({error}): restore them, or delete the fold's folder and "
            "train it again"
        ) from None
    write_probabilities(out, (sum(map(len, arrays)), *arrays[0].shape[1:]), arrays)


def weights_of(run: Run, fold: int | None, weights: str | None = None) -> str:
    """The name of the weights that a finished fold predicts with: those asked for, else what its validation chose.

    Raises InputError for weights that the fold does not have.
    """
    entry = run.scores()["folds"][fold_name(fold)]
    name: str = weights or entry["weights"]
    candidates = entry.get("candidates", {})
    if name not in candidates:
        there = ", ".join(candidates)
        raise InputError(f"fold {fold_name(fold)} of {run.path} has no {name!r} weights: choose one of {there}")
    return name


def load_nets(
    run: Run, recipe: Recipe, fold: int | None, weights: str | None = None
) -> Callable[[], Iterator[tuple[float, model.TileNet]]]:
    """A function that gives the nets of a finished fold one after another, each with the weight of its prediction.

    weights: "best", "last", "averaged" or "snapshots"; None for those that scores.json says to use. The nets are on the
    device and ready to predict; their weights sum to 1, and only snapshots are more than one. One net is in memory: use
    it before asking for the next, which is the same object filled anew. Raises InputError for weights that the fold
    does not have.
    """
    name = weights_of(run, fold, weights)
    files = run.weights(fold, name)
    if not files:
        raise InputError(f"{run.fold(fold) / name} is empty: choose other weights, or train the fold again")
    net = make_net(recipe.from_scratch())
    if len(files) == 1:  # filled once, however often it is asked for
        only = list(_nets(net, files, recipe.snapshot_weights))
        return lambda: iter(only)
    return lambda: _nets(net, files, recipe.snapshot_weights)

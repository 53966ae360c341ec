"""The models that label test tiles: opened, and audited: none saw a validation tile of the fold that it labels for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.runs import Run, read_json
from kit.training import pseudo as labels


@dataclass(frozen=True)
class Model:
    """A trained fold of a run, as one that labels."""

    run: Run
    fold: int | None
    prob: np.ndarray  # (n, H, W) float16 of the test tiles in their order, memory-mapped
    made: dict[str, Any]  # test.json: with which weights and TTA
    seen: set[str]  # training tiles it may know
    learnt: set[str]  # test tiles whose pseudo-labels it trained on

    @property
    def name(self) -> str:
        return str(self.run.fold(self.fold))


def models_of(members: Sequence[Run], tiles: Tiles, fold: int | None, valid_ids: Sequence[str]) -> list[Model]:
    """The models that label a fold whose validation tiles are `valid_ids`; for a training on every tile all there are.

    Raises InputError where one saw a validation tile, or has no predictions of these tiles.
    """
    pairs = [(run, k) for run in members for k in (run.finished_folds() if fold is None else [fold])]
    if not pairs:
        raise InputError("none of the runs has a finished fold: go on with train.py --resume")
    models = [_open(run, k, tiles) for run, k in pairs]
    for model in models:
        leaked = labels.leaks(list(model.seen), valid_ids)
        if leaked:
            raise InputError(
                f"leak: {model.name} saw {len(leaked)} of the {len(valid_ids)} validation tiles of fold {fold} "
                f"(such as {leaked[0]}): label with runs whose folds are alike"
            )
    return models


def _open(run: Run, fold: int | None, tiles: Tiles) -> Model:
    where = run.fold(fold)
    if not (where / "test.npy").exists() or not (where / "test.json").exists():
        raise InputError(f"{where / 'test.npy'} is missing: run python scripts/predict.py {run.given}")
    made = read_json(where / "test.json")
    if made.get("data") != tiles.fingerprint:
        raise InputError(f"{where} predicts other tiles: run python scripts/predict.py {run.given}, or name its --data")
    try:
        prob = np.load(where / "test.npy", mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{where / 'test.npy'} is damaged ({error}): delete it and predict again") from None
    if prob.shape != tiles.test_images.shape or prob.dtype.kind != "f":
        raise InputError(f"{where / 'test.npy'} ({prob.dtype} {prob.shape}) does not fit the test tiles: predict again")
    learnt = set(labels.record_of(run, fold).get("tiles", []))
    return Model(run, fold, prob, made, labels.seen_by(run, fold), learnt)


def usable_of(models: Sequence[Model], tiles: Tiles, halves: bool) -> np.ndarray:
    """Which model may label which test tile, bool (M, N). Raises InputError where none may."""
    usable = np.ones((len(models), len(tiles.test_ids)), bool)
    if halves:
        if not any(model.learnt for model in models):
            raise InputError("--halves: none of the runs was trained on pseudo-labels: leave it out")
        usable = np.stack([~np.isin(tiles.test_ids, sorted(model.learnt)) for model in models])
        if not usable.any(axis=0).all():
            raise InputError(
                f"--halves: every run trained on a label of tile {tiles.test_ids[int(np.argmin(usable.any(axis=0)))]}: "
                "train one with pseudo_half=first and one with pseudo_half=second, and name both"
            )
    return usable

"""Where a training stands, and its files: weights as safetensors, resume.pt for going on after any kind of end.

Everything is written whole or not at all, and read without pickle.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import nn

from kit.errors import InputError
from kit.runs import write_bytes, write_text


@dataclass
class State:
    """How far one fold has come. All of it goes into resume.pt, so a resumed training equals an uninterrupted one.

    Random numbers are not part of it: each step seeds them from its own number.
    """

    epoch: int = 0  # number in the plan of the epoch under way
    step: int = 0  # its batches done
    loss_sum: float = 0.0  # over those batches
    consistency_sum: torch.Tensor | float = 0.0  # the same of the loss on unlabelled tiles, where there is one
    counts: torch.Tensor | int = 0  # over them: kit.training.score.counts, 0 before the first
    seconds: float = 0.0  # spent on this fold so far
    rows: list[dict[str, Any]] = field(default_factory=list)  # history.csv
    averaging: str = ""  # what the running average of the weights is: "swa", "ema 0.999", "" for none
    averaged: dict[str, torch.Tensor] = field(default_factory=dict)
    averaged_count: int = 0
    second: dict[str, torch.Tensor] = field(default_factory=dict)  # weights of co-training's second net, the live ones
    snapshots: list[int] = field(default_factory=list)  # numbers of the epochs whose weights are kept, rising
    optimiser: str = ""  # what the optimiser's state belongs to, "" before the first stage

    @property
    def best(self) -> float:
        """Highest validation score so far; minus infinity where there is none."""
        scores = [row["score"] for row in self.rows if row["score"] == row["score"]]
        return max(scores, default=float("-inf"))


def save_weights(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a state dict as safetensors."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(contiguous, metadata))


def load_weights(path: Path, net: nn.Module) -> None:
    """Read a state dict into `net`, every key used. Raises InputError for a missing, damaged or foreign file."""
    if not path.exists():
        raise InputError(f"{path} is missing: the fold is not trained to its end, go on with train.py --resume")
    try:
        tensors = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}): restore it, or delete it to train the fold again") from None
    fill(net, tensors, path)


def fill(net: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Put the tensors read from `path` into `net`, every key used. Raises InputError where they are another net's."""
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{path} does not fit the net of its recipe.toml ({reason}): restore that file") from None


def save_snapshot(folder: Path, state: State, net: nn.Module, epoch: int, keep: int) -> None:
    """Write folder/snapshots/EPOCH.safetensors; the last `keep` of them belong to the state."""
    save_weights(_snapshot(folder, epoch), net.state_dict())
    state.snapshots = [*state.snapshots, epoch][-keep:]


def drop_old_snapshots(folder: Path, state: State) -> None:
    """Delete the snapshots that the state does not name."""
    kept = {_snapshot(folder, epoch) for epoch in state.snapshots}
    for path in (folder / "snapshots").glob("*.safetensors"):
        if path not in kept:
            path.unlink()


def _snapshot(folder: Path, epoch: int) -> Path:
    return folder / "snapshots" / f"{epoch:04d}.safetensors"


def save_history(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, pd.DataFrame(rows).to_csv(index=False))


def save_resume(path: Path, state: State, net: nn.Module, optimiser: dict | None, scaler: dict | None) -> None:
    """Write all that the next step depends on."""
    buffer = io.BytesIO()
    content = {**vars(state), "net": net.state_dict(), "optimiser_state": optimiser, "scaler": scaler}
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def load_resume(path: Path, device: str) -> tuple[State, dict[str, Any]]:
    """The state, and the rest: net, optimiser_state, scaler. Raises InputError for a damaged file."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        rest = {key: content.pop(key) for key in ("net", "optimiser_state", "scaler")}
        return State(**content), rest
    except (RuntimeError, KeyError, TypeError, EOFError, OSError, ValueError, UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read ({reason}): delete the fold's folder and train it again") from None

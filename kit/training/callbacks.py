"""The small fastai callbacks that a training is made of, in the order in which they act."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException, CancelStepException
from tqdm import tqdm

from kit.errors import InputError
from kit.recipe import Recipe
from kit.training import checkpoint, score, team
from kit.training.checkpoint import State
from kit.training.optimisers import MOMENTUM
from kit.training.schedules import CYCLIC, SCHEDULES, Epoch, Position, Rate, monitored, stalled
from kit.training.score import TileScore


class Conductor(Callback):
    """Gives each step its tiles, its randomness and its learning rate, all from the step's number alone."""

    order = -10

    def __init__(self, recipe: Recipe, epochs: list[Epoch], state: State, lr_factors: list[float]):
        self.recipe, self.epochs, self.state, self.lr_factors = recipe, epochs, state, lr_factors
        self.stage = recipe.stages[epochs[0].stage]

    def before_epoch(self) -> None:
        self.now = self.epochs[self.learn.epoch]
        rows = [row for row in self.state.rows if row["stage"] == self.now.stage]
        self.values = monitored(self.stage, rows)
        if self.stage.stop and stalled(self.values) >= self.stage.stop:
            tqdm.write(f"stage {self.now.stage + 1} ends: no better {self.stage.monitor} in {self.stage.stop} epochs")
            raise CancelFitException
        self.learn.dls.train.serve(self.stage)
        self.learn.dls.train.window(self.now.number, self.state.step, self.now.steps)

    def before_batch(self) -> None:
        if not self.training:
            return
        # seeding by the step is what makes a resumed training equal an uninterrupted one, dropout included
        key = self.recipe.seed, self.now.number, self.state.step, 3
        seed = np.random.SeedSequence(key, spawn_key=team.own_key()).generate_state(1)
        torch.manual_seed(int(seed[0]))
        rate = self._rate(self.state.step)
        own = MOMENTUM[self.stage.optimiser]
        momentum = own and (rate.momentum or own)  # an optimiser without momentum never gets any
        self.learn.opt.set_hypers(lr=[rate.lr * factor for factor in self.lr_factors], mom=momentum)

    def _rate(self, step: int) -> Rate:
        """That of a step of the epoch under way."""
        position = Position(self.now.first_step + step, self.now.cycle_steps, self.values)
        return SCHEDULES[self.stage.schedule](self.stage, position)

    @property
    def last_lr(self) -> float:
        """The learning rate of the epoch's last step, also where that was before a resume."""
        return self._rate(self.now.steps - 1).lr


class LossScaling(Callback):
    """float16 needs its loss scaled (GPUs without bfloat16, such as Kaggle's T4); the scale survives a resume."""

    order = 10

    def __init__(self, device: str):
        self.scaler = torch.amp.GradScaler(device)

    def before_backward(self) -> None:
        self.learn.loss_grad = self.scaler.scale(self.learn.loss_grad)

    def before_step(self) -> None:
        self.scaler.step(self.learn.opt.opt)
        self.scaler.update()
        raise CancelStepException  # the scaler has taken the step


# on a GPU a look waits for it, on a CPU it costs nothing
LOOK_AT_LOSS = {"cpu": 1, "cuda": 50}  # steps


class Journal(Callback):
    """Keeps the history, the best weights, snapshots and the resume file; stops on a bad loss or when asked to."""

    order = 70

    def __init__(
        self, state: State, folder: Path, stop: "StopRequest", conductor: Conductor, scaling: LossScaling | None
    ):
        self.state, self.folder, self.stop, self.conductor, self.scaling = state, folder, stop, conductor, scaling

    def before_epoch(self) -> None:
        self.started = time.monotonic()
        self.loss_sum = torch.tensor(self.state.loss_sum, device=self.learn.dls.device)

    def after_batch(self) -> None:
        if self.training:
            self.loss_sum += self.learn.loss.detach()
            self.state.step += 1
            if self.state.step % LOOK_AT_LOSS[self.loss_sum.device.type] == 0:
                self._check_loss()
        if self.stop.agreed():
            self._check_loss()
            self._check_weights()
            self.save()
            raise CancelFitException

    def after_epoch(self) -> None:
        self._check_loss()
        self._check_weights()
        self._spend_time()
        state, now = self.state, self.conductor.now
        _, valid_loss, valid_score = self.learn.final_record[:3]
        better = valid_score > state.best
        row = {
            "epoch": now.number,
            "stage": now.stage,
            "loss": self.conductor.stage.loss,
            "lr": self.conductor.last_lr,
            "tiles": now.steps * self.learn.dls.train.bs,
            "train_loss": state.loss_sum / now.steps,
            "valid_loss": math.nan if valid_loss is None else float(valid_loss),
            "score": float(valid_score),
        }
        if isinstance(self.learn.metrics[0], TileScore):
            row |= score.figures(state.counts, self.learn.metrics[0].counts)
        row["seconds"] = round(state.seconds, 1)
        if self.conductor.stage.consistency != "none":
            row["consistency"] = float(state.consistency_sum) / now.steps
        state.rows.append(row)
        state.epoch, state.step, state.loss_sum, state.consistency_sum, state.counts = now.number + 1, 0, 0.0, 0.0, 0
        if better:
            checkpoint.save_weights(self.folder / "best.safetensors", self.learn.model.state_dict())
        stage = self.conductor.stage
        if stage.snapshots and (now.ends_cycle if stage.schedule in CYCLIC else better):
            checkpoint.save_snapshot(self.folder, state, self.learn.model, now.number, stage.snapshots)
        checkpoint.save_history(self.folder / "history.csv", state.rows)
        self.save()
        checkpoint.drop_old_snapshots(self.folder, state)  # only now: the resume file before this one named them

    def save(self) -> None:
        """Write resume.pt: the training can be killed at any moment after this."""
        self._spend_time()
        scaler = self.scaling.scaler.state_dict() if self.scaling else None
        optimiser = self.learn.opt.opt.state_dict()
        checkpoint.save_resume(self.folder / "resume.pt", self.state, self.learn.model, optimiser, scaler)

    def _spend_time(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self.started
        self.started = now

    def _check_loss(self) -> None:
        self.state.loss_sum = self.loss_sum.item()
        if not math.isfinite(self.state.loss_sum + float(self.state.consistency_sum)):
            raise self._diverged("the loss is no longer a number")

    def _check_weights(self) -> None:
        """A loss is that of the weights before its step: what is saved is looked at itself."""
        tensors = [*self.learn.model.state_dict().values(), *self.state.second.values()]
        if not all(tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()):
            raise self._diverged("weights are no longer numbers")

    def _diverged(self, what: str) -> InputError:
        kept = f"{self.folder} keeps the last good state"
        if not (self.folder / "resume.pt").exists():
            kept = "nothing was saved yet"
        return InputError(
            f"{what} (epoch {self.conductor.now.number}, step {self.state.step}, loss {self.conductor.stage.loss}, "
            f"lr {self.learn.opt.hypers[-1]['lr']:.2g}): train again with a lower --lr or --set precision=float32; "
            f"{kept}"
        )


class StopRequest:
    """Whether Ctrl-C or SIGTERM has asked the training to save and stop; a second one stops at once if `hasty`."""

    # not where another process starts and ends this one: that may ask twice, or ask what a scheduler asked already
    hasty = True

    def __init__(self) -> None:
        self.signal: int = 0

    @property
    def asked(self) -> bool:
        return self.signal != 0

    def agreed(self) -> bool:
        """Whether this process was asked, or any that trains together with it: then all of them were."""
        if team.anyone(self.asked):
            self.signal = self.signal or signal.SIGTERM
        return self.asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, handler) for number, handler in self._handlers().items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handlers(self) -> dict[signal.Signals, Callable]:
        return dict.fromkeys((signal.SIGINT, signal.SIGTERM), self._receive)

    def _receive(self, number: int, frame) -> None:
        if self.asked and self.hasty:
            raise KeyboardInterrupt
        if not self.asked and team.leads():
            again = b" (again: stop at once)" if self.hasty else b""
            os.write(2, b"\nsaving after this batch" + again + b"\n")  # print may not be called from a handler
        self.signal = number


class Progress(Callback):
    """A bar with the time left on a terminal; elsewhere a line per epoch. Both print the epoch's line."""

    order = 80

    def __init__(self, state: State, epochs: list[Epoch], recipe: Recipe):
        self.state, self.recipe = state, recipe
        self.total_epochs = epochs[-1].number + 1
        self.total = sum(epoch.steps for epoch in epochs)
        self.done = sum(epoch.steps for epoch in epochs if epoch.number < state.epoch) + state.step
        self.bar = tqdm(total=self.total, initial=self.done, unit="step", file=sys.stderr, disable=None, leave=False)

    def after_batch(self) -> None:
        if self.training:
            self.done += 1
            self.bar.update()

    def after_epoch(self) -> None:
        row = self.state.rows[-1]
        best = self.state.best
        parts = [
            f"epoch {row['epoch'] + 1:>3}/{self.total_epochs}",
            f"stage {row['stage'] + 1}/{len(self.recipe.stages)} {row['loss']}",
            f"lr {row['lr']:.1e}",
            f"train {row['train_loss']:.4f}",
        ]
        if "consistency" in row:
            parts.append(f"consistency {row['consistency']:.4f}")
        if math.isfinite(best):
            parts += [f"valid {row['valid_loss']:.4f}", f"score {row['score']:.4f}", f"best {best:.4f}"]
        tqdm.write("  ".join([*parts, f"{row['seconds']:.0f} s"]), file=sys.stdout)
        sys.stdout.flush()


class TensorBoard(Callback):
    """The history as TensorBoard scalars in the fold's folder (extra: pip install salt-kit[tensorboard])."""

    order = 90

    def __init__(self, state: State, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.state, self.writer = state, SummaryWriter(str(folder / "tensorboard"))

    def after_epoch(self) -> None:
        row = self.state.rows[-1]
        for key in row.keys() - {"epoch", "stage", "loss", "tiles", "seconds"}:
            self.writer.add_scalar(key, row[key], row["epoch"])
        self.writer.flush()

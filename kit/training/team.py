"""One fold over several GPUs: the processes that `accelerate launch` or torchrun started take each step together.

All of them run the same training and draw the same batches. Each takes its part of a batch through the net
(kit.training.micro_batches), and sums over the processes make loss, gradients and predictions whole again, so that
whatever is decided is decided alike in all of them. The first one leads: it alone does what the flags say and writes to
the run. The others follow in copies of the run that are thrown away.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kit import cli
from kit.errors import InputError
from kit.runs import Run
from kit.training import command

PATIENCE = timedelta(days=1)  # for a leader who predicts between two rounds
NOT_NEEDED = ("test*", "oof*", "pseudo", "report")  # of a run, in a copy
Net = TypeVar("Net", bound=nn.Module)


def size() -> int:
    """How many processes take a step together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process is the first one, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0


def own_key() -> tuple[int, ...]:
    """What sets this process's random numbers apart from those of the leader, as SeedSequence's spawn_key."""
    return () if leads() else (dist.get_rank(),)


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes, the same in all of them."""
    if size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def anyone(flag: bool) -> bool:
    """Whether the flag is up in any process. Nothing on a GPU is waited for."""
    return bool(total(torch.tensor(int(flag)))) if size() > 1 else flag


def part_of(tensor: Tensor) -> Tensor:
    """This process's rows of a tensor with a row for each tile of a batch; all of them where some would have none."""
    return tensor.tensor_split(size())[dist.get_rank()] if 1 < size() <= len(tensor) else tensor


def whole(part: Tensor, tiles: int) -> Tensor:
    """A tensor with a row for each of so many tiles, of which each process has the rows that `part_of` gave it."""
    if size() == 1 or len(part) == tiles:
        return part
    rows = torch.arange(tiles, device=part.device)
    found = torch.zeros(tiles, *part.shape[1:], device=part.device)  # float32
    found[part_of(rows)] = part.float()
    dist.all_reduce(found)
    return found


def join(nets: Sequence[nn.Module]) -> None:
    """Make gradients and batch-norm statistics of the nets, which saw this process's tiles, those of all processes.

    Gradients are added up, statistics are averaged.
    """
    if size() == 1:
        return
    gradients = [parameter.grad for net in nets for parameter in net.parameters() if parameter.grad is not None]
    norms = [module for net in nets for module in net.modules() if isinstance(module, _BatchNorm)]
    statistics = [found for norm in norms for found in (norm.running_mean, norm.running_var) if found is not None]
    _add_up([*gradients, *(found.div_(size()) for found in statistics)])


def _add_up(tensors: Sequence[Tensor]) -> None:
    """Put into each tensor its sum over the processes; one message for all."""
    flat = torch.cat([tensor.flatten().float() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, found in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(found.view(tensor.shape))


def synchronised(net: Net) -> Net:
    """The net with batch-norms that see a step's tiles of all processes, where these have GPUs; torch has none else."""
    if size() == 1 or not torch.cuda.is_available():
        return net
    return convert_sync_batchnorm(net)  # timm's: torch's own would lose the activation in timm's batch-norms


@dataclass(frozen=True)
class Job:
    """What the leader is about to train: folds of a run that lies there with its recipe and folds."""

    run: Path
    which: Sequence[int | None]
    data: Path


@contextlib.contextmanager
def formed() -> Iterator[None]:
    """The processes find each other; on a machine with GPUs each takes the one that it was given."""
    gpus = torch.cuda.is_available()
    if gpus:
        place, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= count:
            raise InputError(f"process {place + 1} of this machine finds {count} GPUs: start one process for each")
        torch.cuda.set_device(place)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    yield
    dist.destroy_process_group()  # not after an error: it might wait for processes that wait for this one


def announce(job: Job | None) -> None:
    """Tell the others what to train, or with None that there is nothing more; returns when they have what they need."""
    if size() > 1:
        _said(job)
        _meet()


def _said(job: Job | None = None) -> Job | None:
    """What the leader says, in all processes; the others wait for it."""
    told: list[Job | None] = [job]
    dist.broadcast_object_list(told, 0, device=torch.device("cpu"))
    return told[0]


def _meet() -> None:
    """Go on when every process is here."""
    total(torch.zeros(1))


def follow() -> None:
    """Take part in whatever the leader trains, until it has no more, or has ended. Prints only what is wrong here."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(cli.INTERRUPTED))  # and the copy goes
    while job := _heard():
        try:
            with tempfile.TemporaryDirectory() as folder, _quiet():
                run = Run(Path(folder) / job.run.name)
                shutil.copytree(job.run, run.path, ignore=shutil.ignore_patterns(*NOT_NEEDED))
                _meet()
                _train(run, job)
        except (InputError, RuntimeError) as error:  # often that another process has ended
            cli.fail(f"process {dist.get_rank() + 1} of {size()}: {error}", cli.INPUT_WRONG)
    _meet()


def _heard() -> Job | None:
    """What the leader says; exits where it has ended instead, and has said why."""
    try:
        return _said()
    except RuntimeError:
        sys.exit(cli.INPUT_WRONG)


def _train(run: Run, job: Job) -> None:
    """Train to the end, or until the leader has been asked to stop as well."""
    from kit.training.fold import train_folds  # which is made of steps, and these of what is above

    train_folds(run, *command.prepared(run, job.data), job.which)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield

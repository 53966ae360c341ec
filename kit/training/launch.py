"""scripts/train.py under `accelerate launch` or torchrun: one process leads, the others follow (kit.training.team)."""

import argparse
import os
import sys
from collections.abc import Callable

from kit.errors import InputError


def launched() -> bool:
    """Whether a launcher has started this process and others to train together."""
    return {"RANK", "MASTER_ADDR"} <= os.environ.keys() and int(os.environ.get("WORLD_SIZE", "1")) > 1


def check(args: argparse.Namespace) -> None:
    """Raises InputError, in the first process alone, for flags of what one process does."""
    flags = [flag for flag in ("pretext", "lr_find") if getattr(args, flag)]
    flags += ["per_device"] if args.per_device > 1 else []
    if launched() and flags:
        if os.environ["RANK"] != "0":
            sys.exit()  # as any other code would end the first one before it has said why
        raise InputError(f"--{flags[0].replace('_', '-')} is for one process: start it without the launcher")


def together(train: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Call `train` with the flags: in the first process, where a launcher has started others, which then follow it."""
    if not launched():
        train(args)
        return

    from kit.training import team
    from kit.training.callbacks import StopRequest

    StopRequest.hasty = False
    with team.formed():
        if team.leads():
            train(args)
            team.announce(None)
        else:
            team.follow()

"""A process that trains one fold of a run that another holds the lock of; kit.training.parallel starts and reads it.

python -m kit.training.worker RUN FOLD DATA [tensorboard]
"""

import os
import sys
import threading
import time
from pathlib import Path

from fastai.callback.core import Callback

from kit import cli
from kit.runs import Run
from kit.training import command
from kit.training.callbacks import StopRequest
from kit.training.fold import train_folds
from kit.training.learner import make_learner
from kit.training.parallel import MARK

EVERY = 0.25  # seconds between two looks at the steps done


class Report(Callback):
    """Tells the process that shows it how many steps are done."""

    order = 85  # behind Progress, which counts them

    def before_fit(self) -> None:
        self.told = 0.0

    def after_batch(self) -> None:
        if self.training and time.monotonic() - self.told > EVERY:
            self.told = time.monotonic()
            # one write, into which no loader process can write a warning
            sys.stdout.write(f"{MARK}{self.learn.progress.done} {self.learn.progress.total}\n")


def main() -> None:
    path, name, data, *tensorboard = sys.argv[1:]
    fold = None if name == "none" else int(name)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    StopRequest.hasty = False
    run = Run(path)
    recipe, tiles, table = command.prepared(run, Path(data))
    learn = make_learner(recipe, tiles, fold, table)
    learn.add_cb(Report())
    if not train_folds(run, recipe, tiles, table, [fold], bool(tensorboard), learn):
        sys.exit(cli.INTERRUPTED)


def _end_with_parent() -> None:
    """The parent's lock ends with it, and another may take the run: nothing may be written any more."""
    while os.read(0, 1):
        pass
    os._exit(cli.INTERRUPTED)


if __name__ == "__main__":
    cli.run(main)

"""Nothing in a step waits for the device, and what is recorded is what fastai records."""

from dataclasses import replace

import pytest
from fastai.callback.core import Callback
from fastai.learner import AvgLoss, AvgSmoothLoss, Recorder
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kit.recipe import Stage
from kit.training import callbacks, learner
from tests.small import easy_tiles, tiny_recipe
from tests.training.toys import PAIR, TEACHER, fit, toys

TILES = easy_tiles(32, 8)
# what Python asks of a tensor, and what torch does inside, that needs numbers on the host
ASKED = {"cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__"}
DONE = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero"}


class Asked(TorchFunctionMode):
    """Keeps what Python asks of tensors."""

    def __init__(self, seen: list[str]):
        self.seen = seen

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ASKED:
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


class Done(TorchDispatchMode):
    """Keeps what torch itself needs on the host."""

    def __init__(self, seen: list[str]):
        self.seen = seen

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.name in DONE:
            self.seen.append(function._schema.name)
        return function(*args, **(kwargs or {}))


def waits(learn, recipe, folder) -> list[str]:
    """What each batch of a training and its validations asked of the device."""
    seen: list[str] = []
    one_batch = learn.one_batch

    def watched(*args) -> None:
        with Asked(seen), Done(seen):
            one_batch(*args)

    learn.one_batch = watched
    learner.fit(learn, recipe, folder, resume=False)
    return seen


STAGE = Stage(bs=6, epochs=0.5, micro_bs=4)


@pytest.mark.parametrize(
    ("stage", "precision", "loaders"),
    [
        (replace(STAGE, ema=0.9), "float16", 0),
        (replace(TEACHER, epochs=0.5), "float16", 1),
        (replace(PAIR, epochs=0.5, optimiser="sgd", normalise=True), "float32", 2),
    ],
    ids=["in parts", "mean teacher", "co-training, normalised"],
)
def test_no_batch_waits_for_the_device(stage, precision, loaders, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "LOOK_AT_LOSS", {"cpu": 50})  # as on a GPU
    recipe, learn = toys(stage, precision=precision)
    of_loaders = ["item", "aten::_local_scalar_dense"] * loaders  # where an epoch's begin, of a number on the host
    assert waits(learn, recipe, tmp_path) == of_loaders


@pytest.mark.slow
def test_no_batch_of_a_net_with_heads_waits_for_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "LOOK_AT_LOSS", {"cpu": 50})
    recipe = tiny_recipe(
        *("net.decoder=salt", "salt.deep=0.1", "salt.empty=0.1", "salt.nonempty=0.1", "data.channels=grey+depth+y"),
        *("stages.0.loss=0.3*bce + 0.7*symmetric_lovasz_nonempty_elu", "stages.0.epochs=0.5"),
    )
    recipe = replace(recipe, stages=recipe.stages[:1])
    assert waits(learner.make_learner(recipe, TILES, 0), recipe, tmp_path) == []


def test_a_wait_is_seen(tmp_path):
    """fastai's own metrics copy losses in training and validation; on a CPU the look at the loss asks for its value."""
    recipe, learn = toys(STAGE)
    learn.recorder.smooth_loss, learn.recorder.loss = AvgSmoothLoss(), AvgLoss()
    seen = waits(learn, recipe, tmp_path)
    steps, looks = 2, 1  # 12 of 24 tiles to train on, 8 to validate
    assert seen.count("cpu") == steps + looks
    assert seen.count("item") == seen.count("aten::_local_scalar_dense") == steps


def test_losses_are_fastais(tmp_path):
    class Both(Callback):
        """A recorder of fastai's beside ours, in the same training."""

        order, epochs = 51, []

        def before_fit(self):
            self.fastais = Recorder()
            self.fastais.learn = self.learn
            self.fastais.before_fit()

        def before_epoch(self):
            self.fastais.before_epoch()

        def before_validate(self):
            self.fastais.before_validate()

        def after_batch(self):
            self.fastais.after_batch()

        def after_epoch(self):
            theirs = [self.fastais.smooth_loss.value.item(), self.fastais.loss.value.item()]
            self.epochs.append((list(self.learn.final_record[:2]), theirs))

        def after_fit(self):
            losses = self.learn.recorder.losses
            assert [loss.item() for loss in losses] == [loss.item() for loss in self.fastais.losses]

    both = Both()
    fit(tmp_path, *toys(replace(STAGE, epochs=2), replace(STAGE, loss="dice")), both)
    assert len(both.epochs) == 3
    assert all(ours == theirs for ours, theirs in both.epochs)

"""A step in parts is the step of the whole batch: in weights, in the history, whatever adds to the loss."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from torch import nn

from kit.errors import InputError
from kit.nets.heads import Outputs
from kit.recipe import Salt, Stage
from kit.training import budget
from kit.training.learner import make_learner
from tests.small import easy_tiles, tiny_recipe
from tests.training.test_resume import assert_equal, killed_and_resumed, stopped_and_resumed, train
from tests.training.toys import Toy, fit, toys

pytestmark = pytest.mark.slow

# 24 training tiles: 3 steps an epoch, each of 8 tiles in parts of 3, 3 and 2
WHOLE = Stage(bs=8, epochs=1, lr=0.01, loss="0.5*bce + 0.5*lovasz_elu", schedule="constant")
IN_PARTS = replace(WHOLE, micro_bs=3)


class Plain(nn.Module):
    """Two convolutions in double precision, without anything that looks at a batch or draws numbers."""

    precision, heads, dtype = None, False, torch.float64

    def __init__(self, *_: float):
        super().__init__()
        seed = 1 + len(_)
        generator = torch.Generator().manual_seed(seed)
        self.first, self.last = (nn.Conv2d(*shape, 3, padding=1, dtype=self.dtype) for shape in ((1, 4), (4, 1)))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=self.dtype) / 3
        self.seen: list[int] = []

    def forward(self, tiles: torch.Tensor) -> torch.Tensor | Outputs:
        if self.training:
            self.seen.append(len(tiles))
        x = torch.as_tensor(tiles).as_subclass(torch.Tensor).to(self.dtype) / 128 - 1
        logits = self.last(self.first(x).relu())[:, 0]
        return Outputs(logits, (logits / 2,), logits.mean((1, 2))) if self.heads and self.training else logits

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        return [[], [], list(self.parameters())]


class Headed(Plain):
    """With a map at another scale and a head for empty tiles."""

    heads = True


class Single(Plain):
    """In single precision."""

    dtype = torch.float32


def trained(folder, stage, net=Plain, salt=None, **changes):
    recipe, learn = toys(stage, net=net, **changes)
    fit(folder, replace(recipe, salt=salt) if salt else recipe, learn)
    weights = [p.detach() for each in (learn.model, learn.second) if each is not None for p in each.parameters()]
    return weights, pd.read_csv(folder / "history.csv"), learn


@pytest.mark.parametrize(
    ("net", "keys", "salt"),
    [
        (Plain, {}, None),
        (Plain, {"optimiser": "sgd", "normalise": True}, None),
        (Plain, {"ema": 0.9, "consistency": "mean-teacher"}, None),
        (Plain, {"consistency": "co-training"}, None),
        (Headed, {}, Salt(deep=0.4, empty=0.3)),
    ],
    ids=["adamw", "sgd, normalised", "mean teacher", "co-training", "heads"],
)
def test_a_step_in_parts_is_that_of_the_whole_batch(tmp_path, net, keys, salt):
    (whole, expected, _), (parts, history, learn) = (
        trained(tmp_path / name, replace(stage, **keys), net, salt)
        for name, stage in (("whole", WHOLE), ("parts", IN_PARTS))
    )
    for own, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)  # the empty head's loss is in single precision
    assert any((own != start).any() for own, start in zip(parts, net().parameters(), strict=False))
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), expected.drop(columns="seconds"), rtol=1e-5)
    a_step = [3, 3, 2] if "consistency" not in keys else [3, 3, 3, 3, 2, 2]  # with as many without labels
    assert learn.model.seen == a_step * 3


def test_float16_scales_the_loss_of_each_part(tmp_path):
    (whole, *_), (parts, _, learn) = (
        trained(tmp_path / str(stage.micro_bs), stage, Single, precision="float16") for stage in (WHOLE, IN_PARTS)
    )
    assert learn.loss_scaling.scaler.get_scale() > 1
    for own, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_a_part_that_float16_cannot_hold_costs_the_whole_step(tmp_path):
    class Overflow(Callback):
        """The first part of the second step has a gradient beyond all bounds."""

        order, parts, weights = 20, 0, []

        def after_backward(self):
            self.parts += 1
            if self.parts == 4:
                next(self.learn.model.parameters()).grad.fill_(torch.inf)

        def after_batch(self):
            if self.training:
                self.weights.append(next(self.learn.model.parameters()).clone())

    recipe, learn = toys(IN_PARTS, net=Single, precision="float16")
    overflow = Overflow()
    fit(tmp_path, recipe, learn, overflow)
    first, second, third = overflow.weights
    assert torch.equal(first, second)
    assert not torch.equal(second, third)
    assert learn.loss_scaling.scaler.get_scale() == 2**15  # half of where it begins


def test_what_looks_at_a_batch_after_its_step_sees_all_of_it(tmp_path):
    class Look(Callback):
        order, sizes = 90, []

        def after_batch(self):
            if self.training:
                self.sizes.append((len(self.learn.x), len(self.learn.y), len(self.learn.pred), self.learn.loss.ndim))

    look = Look()
    fit(tmp_path, *toys(IN_PARTS, net=Plain), look)
    assert look.sizes == [(8, 8, 8, 0)] * 3


def test_a_part_that_holds_the_whole_batch_changes_nothing(tmp_path):
    (whole, expected, _), (parts, history, _) = (
        trained(tmp_path / str(size), replace(WHOLE, micro_bs=size), Toy) for size in (0, 8)
    )
    assert all(torch.equal(own, other) for own, other in zip(parts, whole, strict=True))
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True)


@pytest.mark.parametrize("pooled", ["salt.bam=true", "salt.centre=psp", "salt.centre=fpa", "data.size=32"])
def test_one_tile_at_a_time_is_refused_where_torch_cannot_normalise_it(pooled):
    """And two are not: the smallest of equal parts counts, 2 of 5 in two parts, 1 of 5 in three."""
    tiles, salt = easy_tiles(24, 1), ("net.decoder=salt", "salt.width=8", pooled)
    with pytest.raises(InputError, match=r"of a batch of 5 in stage 1, .*raise stages\.0\.micro_bs"):
        make_learner(tiny_recipe(*salt, "stages.0.micro_bs=2"), tiles, 0)
    with pytest.raises(InputError, match=r"of a batch of 1 in stage 2, .*raise stages\.1\.bs$"):
        make_learner(tiny_recipe(*salt, "stages.1.bs=1"), tiles, 0)
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # as torch would say
        make_learner(tiny_recipe(*salt), tiles, 0).model.train()(torch.from_numpy(tiles.train_images[:1]))
    learn = make_learner(tiny_recipe(*salt, "stages.0.micro_bs=3"), tiles, 0)
    learn.model.train()(torch.from_numpy(tiles.train_images[:2]))


def test_the_time_budget_times_every_part():
    recipe, learn = toys(IN_PARTS, net=lambda *weights: Toy(*weights, pause=0.03))
    assert budget._step_seconds(learn, recipe, IN_PARTS) > 3 * 0.03


# dropout and random padding in every part, a teacher, two nets
RESUMED = tiny_recipe(
    *("stages.0.micro_bs=2", "stages.1.micro_bs=3", "stages.2.micro_bs=4", "stages.2.epochs=1"),
    *("stages.0.consistency=mean-teacher", "stages.0.ema=0.9", "stages.1.consistency=co-training"),
    *("net.decoder=salt", "salt.dropout=0.3", "salt.empty=0.05", "data.fit=pad-random", "data.size=112"),
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return train(tmp_path_factory.mktemp("reference") / "run", RESUMED)


def test_killed_between_parts_it_ends_where_it_would_have(reference, tmp_path):
    assert_equal(killed_and_resumed(tmp_path / "run", RESUMED, 7, "before_batch"), reference)


def test_asked_to_stop_in_mid_epoch_it_goes_on(reference, tmp_path):
    assert_equal(stopped_and_resumed(tmp_path / "run", RESUMED, 8), reference)

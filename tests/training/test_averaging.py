"""Averages of weights and of predictions are the means that their papers say."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from kit.errors import InputError
from kit.recipe import Stage
from kit.training import averaging
from kit.training.averaging import Averaging, snapshot_weights
from kit.training.checkpoint import State
from tests.small import tiny_recipe


def net_with_norm():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1))


def averaged_over(stage, n, events=("after_batch",)):
    """The state dicts of n moments of a net, and the average that the callback made of them."""
    net, state, seen = net_with_norm(), State(averaging=averaging.kind(stage)), []
    callback = Averaging(state, stage)
    callback.learn = SimpleNamespace(model=net, training=True)
    for number in range(n):
        with torch.no_grad():
            for tensor in net.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else torch.tensor(number))
        seen.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        for event in events:
            getattr(callback, event)()
    return seen, state


def test_swa_is_the_mean_over_the_ends_of_epochs():
    seen, state = averaged_over(Stage(average=True), 7, ("after_batch", "after_batch", "after_epoch"))
    assert state.averaged_count == 7
    for name, mean in state.averaged.items():
        if mean.is_floating_point():
            torch.testing.assert_close(mean, torch.stack([each[name] for each in seen]).mean(0))


@pytest.mark.parametrize("n", [1, 2, 30])
def test_ema_weighs_each_step_by_its_age(n):
    """The weights of a step count decay^age, over their sum; what is counted and not learnt is that of the last."""
    seen, state = averaged_over(Stage(ema=0.8), n, ("after_batch", "after_epoch"))
    weights = np.array([0.8 ** (n - 1 - number) for number in range(n)])
    weights /= weights.sum()
    for name, mean in state.averaged.items():
        if mean.is_floating_point():
            expected = sum(weight * each[name].double() for weight, each in zip(weights, seen, strict=True))
            torch.testing.assert_close(mean.double(), expected, rtol=1e-4, atol=1e-6)
        else:
            assert mean.item() == n - 1


def test_validation_batches_are_no_steps():
    net, state = net_with_norm(), State()
    callback = Averaging(state, Stage(ema=0.5))
    callback.learn = SimpleNamespace(model=net, training=False)
    callback.after_batch()
    assert state.averaged_count == 0


def test_batch_norms_get_the_statistics_that_torch_gives_them():
    batches = [torch.randn(4, 1, 8, 8) + number for number in range(5)]
    own, other = net_with_norm(), net_with_norm()
    averaging.recompute_batch_norm(own, [(batch,) for batch in batches])
    update_bn(batches, other)
    for name, tensor in own.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name])
    assert [own[1].momentum, own[4].momentum] == [0.1, 0.1]


def test_a_net_without_batch_norms_is_passed_nothing():
    def refused():
        raise AssertionError
        yield

    averaging.recompute_batch_norm(nn.Conv2d(1, 1, 1), refused())


def test_snapshots_count_alike_or_by_their_age():
    assert snapshot_weights(1, "mean") == snapshot_weights(1, "exponential") == [1.0]
    assert snapshot_weights(4, "mean") == [0.25] * 4
    weights = snapshot_weights(10, "exponential")
    assert sum(weights) == pytest.approx(1)
    assert np.diff(np.log(weights)) == pytest.approx([-np.log(0.8)] * 9)  # the newest, the last one, counts most


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"ema": 1.0}, "ema must be 0"),
        ({"ema": -0.1}, "ema must be 0"),
        ({"ema": 0.9, "average": True}, "choose one"),
        ({"snapshots": -1}, "snapshots must be 0"),
    ],
)
def test_what_no_average_can_be_is_one_line(keys, words):
    with pytest.raises(InputError, match=rf"stages\.1.*{words}"):
        averaging.check(Stage(**keys), "stages.1")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["stages.0.snapshots=3"], "stages.0.snapshots comes to nothing, for stages.1 does not go on with it"),
        (["stages.1.ema=0.9"], "stages.1.ema comes to nothing, .* give stages.2.ema=0.9 too, or stages.1.ema=0.0$"),
        (
            ["stages.0.average=true"],
            "stages.0.average comes to nothing, .* give stages.1.average=true too, or stages.0.average=false",
        ),
        (["stages.1.average=true"], ""),
        (["stages.2.snapshots=3"], ""),
        (["stages.1.ema=0.9", "stages.1.consistency=mean-teacher"], ""),
        (["stages.1.pseudo=only", "stages.0.average=true"], ""),  # stage 2 has no run to train on
    ],
)
def test_what_the_next_stage_would_throw_away_is_refused(settings, words):
    recipe = tiny_recipe(*settings)
    with pytest.raises(InputError, match=words) if words else nullcontext():
        averaging.check_kept(recipe)


def test_an_unknown_way_to_weigh_snapshots_lists_the_known_ones():
    with pytest.raises(InputError, match="snapshot_weights 'median' is unknown; use mean or exponential"):
        averaging.check_snapshot_weights("median")

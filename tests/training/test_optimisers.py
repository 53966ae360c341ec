"""Optimisers take the steps of their papers, with gradients normalised layer by layer where the recipe says so."""

import pytest
import torch
from torch import nn

from kit.errors import InputError
from kit.recipe import Stage
from kit.training import optimisers


def nets(n=2):
    """Copies of one small net."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    made = [nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)) for _ in range(n)]
    for net in made:
        net.load_state_dict(first.state_dict())
    return made


def run(net, step, n=5, scale=1.0):
    """n steps on fixed data; `step` is called where the gradients are there."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        x = torch.randn(8, 4, generator=generator)
        net.zero_grad()
        (scale * net(x).square().mean()).backward()
        step()


def groups(net):
    return [[], list(net[0].parameters()), list(net[2].parameters())]


REFERENCES = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.9),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_they_are_torchs_and_take_empty_groups(name):
    own, other = nets()
    optimiser = optimisers.make(groups(own), 0.01, stage=Stage(optimiser=name, weight_decay=0.1))
    run(own, optimiser.step)
    run(other, REFERENCES[name](other.parameters()).step)
    for ours, theirs in zip(own.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_rmsprop_divides_by_the_running_root_mean_square():
    """Hinton's lecture 6e, with Keras's rho 0.9 and epsilon 1e-7 and without momentum."""
    own, other = nets()
    run(own, optimisers.make(groups(own), 0.01, stage=Stage(optimiser="rmsprop", weight_decay=0.0)).step)
    mean = {p: torch.zeros_like(p) for p in other.parameters()}

    @torch.no_grad()
    def by_hand():
        for p in other.parameters():
            mean[p] = 0.9 * mean[p] + 0.1 * p.grad**2
            p -= 0.01 * p.grad / (mean[p].sqrt() + 1e-7)

    run(other, by_hand)
    for ours, theirs in zip(own.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", optimisers.OPTIMISERS)
def test_normalised_steps_are_those_of_gradients_of_length_one(name):
    stage = Stage(optimiser=name, normalise=True, weight_decay=0.0)
    own, other = nets()
    run(own, optimisers.make(groups(own), 0.01, stage=stage).step, scale=1000.0)  # the loss's size does not matter
    plain = optimisers.make(groups(other), 0.01, stage=Stage(optimiser=name, weight_decay=0.0))

    def by_hand():
        for p in other.parameters():
            p.grad = p.grad / p.grad.square().sum().sqrt()
        plain.step()

    run(other, by_hand)
    for ours, theirs in zip(own.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_gradient_of_nought_stays_nought():
    (net,) = nets(1)
    before = [p.detach().clone() for p in net.parameters()]
    optimiser = optimisers.make(groups(net), 0.01, stage=Stage(optimiser="sgd", normalise=True, weight_decay=0.0))
    run(net, optimiser.step, scale=0.0)
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("name", optimisers.OPTIMISERS)
def test_float16s_loss_scale_leaves_normalised_steps_alone(name):
    """The scaler undoes its scale before the gradients are divided by their norms, not after."""
    own, other = nets()
    stage = Stage(optimiser=name, normalise=True)
    scaled, plain = (optimisers.make(groups(net), 0.01, stage=stage) for net in (own, other))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step():
        scaler.step(scaled.opt)
        scaler.update()

    scaler.scale(torch.zeros(1))  # sets the scale up
    run(own, step, scale=1024.0)
    run(other, plain.step)
    for ours, theirs in zip(own.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"optimiser": "adamx"}, "unknown optimiser 'adamx'; there are: adam"),
        ({"weight_decay": -1.0}, r"stages\.2\.weight_decay must be 0 or more"),
        ({"encoder_lr": -1.0}, "encoder_lr must be 0 or more"),
    ],
)
def test_what_no_optimiser_can_be_is_one_line(keys, words):
    with pytest.raises(InputError, match=words):
        optimisers.check(Stage(**keys), "stages.2")

"""How much of a batch goes through the net at once: found, said, recorded, and no trace of the search left."""

from dataclasses import replace

import pytest
import torch

from kit import machine
from kit import recipe as recipes
from kit.data import demo
from kit.errors import InputError
from kit.recipe import AUTO, Stage
from kit.runs import Run, read_json
from kit.training import auto_batch, command, pretext_command
from tests.small import TINY, tiny_recipe
from tests.training.test_pretext import arguments
from tests.training.toys import PAIR, TEACHER, Toy, toys

pytestmark = pytest.mark.slow

OPEN = replace(TEACHER, consistency="none", ema=0.0, micro_bs=AUTO)


class Limited(Toy):
    """Keeps the maps of at most `room` tiles for a backward pass, those of other nets counted."""

    room, held = 6, 0

    def forward(self, tiles):
        if torch.is_grad_enabled():
            Limited.held += len(tiles)
            if Limited.held > self.room:
                Limited.held = 0  # the step fails, and all of it is let go
                raise torch.OutOfMemoryError("planted: tried to allocate")
        logits = super().forward(tiles)
        if torch.is_grad_enabled():
            logits.register_hook(lambda _: setattr(Limited, "held", 0))
        return logits


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """A function that sets how many tiles fit; the machine's own memory does not count."""
    monkeypatch.setattr(Limited, "held", 0)
    monkeypatch.setattr(machine, "free_memory", lambda: 1 << 60)

    def have(tiles: int) -> None:
        monkeypatch.setattr(Limited, "room", tiles)

    return have


@pytest.fixture
def search(monkeypatch):
    """A function that chooses how it is searched: on a GPU parts shrink, on a CPU they grow."""
    ways = {"growing": auto_batch._growing, "shrinking": auto_batch._shrinking}
    return lambda how: monkeypatch.setattr(auto_batch, "_growing", ways[how])


@pytest.mark.parametrize(
    ("bs", "expected"),
    [(1, [1]), (2, [2]), (3, [3]), (4, [4, 2]), (5, [5, 3]), (6, [6, 3]), (24, [24, 12, 6, 3]), (9, [9, 5, 3])],
)
def test_parts_are_halves_of_at_least_two_tiles(bs, expected):
    assert auto_batch.parts(bs) == expected
    for size in expected:
        assert min(len(part) for part in torch.arange(bs).tensor_split(-(-bs // size))) >= min(bs, 2)


def test_the_largest_part_that_fits_is_found_and_said_or_one_line_says_that_none_does(search, room, capsys):
    stage = replace(OPEN, bs=20)
    recipe, learn = toys(stage, replace(stage, micro_bs=0), net=Limited)
    for how in ("growing", "shrinking"):
        search(how)
        for tiles, expected in ((20, 20), (9, 5)):
            room(tiles)
            found = auto_batch.resolve(recipe, learn)
            assert found == replace(recipe, stages=(replace(stage, micro_bs=expected), recipe.stages[1]))
            assert learn.dls.train.stage.at_once == expected
            line = f"tiles through the net at once: {expected} of a batch of 20 in stage 1, "
            assert capsys.readouterr().out == line + "20 of a batch of 20 in stage 2\n"
        room(2)
        with pytest.raises(InputError, match="not even 3 tiles fit") as caught:
            auto_batch.resolve(recipe, learn)
        assert "\n" not in str(caught.value)


def state_of(learn):
    nets = [net.state_dict() for net in (learn.model, learn.second)]
    tensors = [tensor.clone() for state in nets for tensor in state.values()]
    return [*tensors, torch.get_rng_state(), torch.tensor(learn.loss_scaling.scaler.get_scale())]


def test_each_stage_gets_its_own_with_what_teaches_in_it_and_nothing_is_left_of_the_search(search, room):
    """Of 6 tiles alone 6 are held, with a teacher's views 12, of two nets with theirs 24: these do not fit."""
    stages = (replace(OPEN, bs=6), *(replace(stage, lr=1.0, micro_bs=AUTO) for stage in (TEACHER, PAIR)))
    recipe, learn = toys(*stages, net=Limited, precision="float16")
    before, callbacks = state_of(learn), {type(each) for each in learn.cbs}
    for how in ("growing", "shrinking"):
        search(how)
        room(12)
        assert [stage.micro_bs for stage in auto_batch.resolve(recipe, learn).stages] == [6, 6, 3]
        assert all(torch.equal(now, then) for now, then in zip(state_of(learn), before, strict=True))
        assert (learn.opt, learn.loss_grad, {type(each) for each in learn.cbs}) == (None, None, callbacks)
        assert all(p.grad is None for net in (learn.model, learn.second) for p in net.parameters())
        assert (learn.dls.train.epoch, learn.dls.train.part) == (-1, None)


def test_a_stage_that_waits_for_pseudo_labels_is_looked_at_too(room):
    room(4)
    later = replace(PAIR, bs=8, micro_bs=AUTO, pseudo="only")  # its labels, and so its tiles, come in a later round
    recipe, learn = toys(replace(OPEN, bs=6), later, net=Limited)
    assert [stage.micro_bs for stage in auto_batch.resolve(recipe, learn).stages] == [3, 4]


@pytest.mark.parametrize("weights", [0, 50, 400])
@pytest.mark.parametrize("free", [40, 90, 300, 700, 5000])
def test_on_a_cpu_no_step_is_tried_that_might_not_fit(monkeypatch, weights, free):
    """A step of n tiles needs weights + 10 n: whole batches where there is twice that, and never more than there is."""
    tried: list[int] = []
    monkeypatch.setattr(machine, "free_memory", lambda: free)
    monkeypatch.setattr(machine, "resident_memory", lambda: 1000)
    monkeypatch.setattr(machine, "peak_memory", lambda: 1000 + weights + 10 * max(tried))
    found = auto_batch._growing([24, 12, 6, 3], lambda size: not tried.append(size))
    assert found == tried[-1]
    assert all(weights + 10 * size <= free for size in tried[1:])  # the smallest is always tried
    if free >= 2 * (weights + 240):
        assert found == 24


def test_where_free_memory_is_not_known_the_batch_is_kept(monkeypatch, room):
    room(0)
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    recipe, learn = toys(replace(OPEN, bs=20), net=Limited)
    assert auto_batch.resolve(recipe, learn).stages[0].micro_bs == 20


def test_recipes_that_leave_nothing_open_are_left_alone(monkeypatch):
    recipe, learn = toys(Stage(bs=6), replace(OPEN, micro_bs=4))
    monkeypatch.setattr(auto_batch, "_largest", None)
    assert auto_batch.resolve(recipe, learn) is recipe


def test_the_flag_asks_for_it_in_every_stage():
    recipe = command.recipe_of(arguments(recipe=str(TINY), bs="auto"))
    assert recipe == replace(
        tiny_recipe(), stages=tuple(replace(stage, micro_bs=AUTO) for stage in tiny_recipe().stages)
    )
    assert pretext_command.recipe_for(recipe).stages[0].micro_bs == AUTO


def test_what_was_found_is_in_the_recipe_of_a_pretext_run_and_its_resume_looks_no_more(tmp_path, monkeypatch, capsys):
    demo.write(tmp_path / "data", n_train=24, n_test=8, seed=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(auto_batch, "_fits", lambda learn, recipe, stage: stage.micro_bs <= 4)
    pretext_command.train(arguments(recipe=str(TINY), bs="auto", epochs=0.3, run="p"))
    assert "tiles through the net at once: 3 of a batch of 5 in stage 1" in capsys.readouterr().out
    assert recipes.load("runs/p/pretext.toml").stages[0].micro_bs == 3
    assert read_json("runs/p/pretext.json")["steps"] > 0
    (Run("runs/p") / "encoder.safetensors").unlink()
    monkeypatch.setattr(auto_batch, "resolve", None)
    pretext_command.train(arguments(run="p", resume=True))
    assert (Run("runs/p") / "encoder.safetensors").exists()

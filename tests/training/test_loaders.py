"""Loaders: every tile once an epoch, the same tiles whatever the number of workers, parts of an epoch exact."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.torch_core import TensorImage, TensorMask

from kit.errors import InputError
from kit.recipe import Stage
from kit.training.consistency import _reseeded
from kit.training.loaders import TileDataset, by_coverage, make_loaders


def arrays(n=50):
    images = np.random.default_rng(0).integers(0, 256, (n, 101, 101), dtype=np.uint8)
    images[:, 0, 0] = np.arange(n)  # each tile's number, readable where nothing is augmented
    return images, images > 128


def loaders(n=50, workers=0, masks=None, **kwargs):
    images, usual = arrays(n)
    kwargs = {"augment": "none", "seed": 3, "bs": 8, "device": "cpu", "num_workers": workers, **kwargs}
    return make_loaders(images, usual if masks is None else masks, np.arange(n) % 5 == 0, **kwargs)


def batches(loader):
    return [(x.numpy().copy(), y.numpy().copy()) for x, y in loader]


def test_batches_are_typed_and_belong_together():
    x, y = loaders().train.one_batch()
    assert isinstance(x, TensorImage)
    assert isinstance(y, TensorMask)
    assert x.shape == (8, 1, 101, 101)
    assert y.shape == (8, 101, 101)
    images, masks = arrays()
    for image, mask in zip(x.numpy(), y.numpy(), strict=True):
        number = image[0, 0, 0]
        np.testing.assert_array_equal(image[0], images[number])
        np.testing.assert_array_equal(mask, masks[number])


def test_validation_keeps_the_order_and_is_disjoint_from_training():
    dls = loaders()
    valid = np.concatenate([x[:, 0, 0, 0] for x, _ in batches(dls.valid)])
    np.testing.assert_array_equal(valid, np.arange(0, 50, 5))
    train = np.concatenate([x[:, 0, 0, 0] for x, _ in batches(dls.train)])
    assert len(set(train)) == len(train) == 40
    assert not set(train) & set(valid)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_number_of_workers_changes_nothing():
    for epoch in (0, 1):
        results = []
        for workers in (0, 2, 3):
            dls = loaders(workers=workers, augment="default")
            dls.train.window(epoch, 0, dls.train.steps_per_epoch)
            results.append(batches(dls.train))
        for other in results[1:]:
            for (x, y), (again_x, again_y) in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(x, again_x)
                np.testing.assert_array_equal(y, again_y)


def test_epochs_differ_and_seeds_differ():
    dls = loaders()
    first, second = batches(dls.train), batches(dls.train)
    other = batches(loaders(seed=4).train)
    order = [[int(v) for x, _ in run for v in x[:, 0, 0, 0]] for run in (first, second, other)]
    assert order[0] != order[1]
    assert order[0] != order[2]


def test_a_window_is_that_part_of_the_epoch():
    dls = loaders(augment="default")
    dls.train.window(2, 0, 5)
    whole = batches(dls.train)
    dls.train.window(2, 3, 5)
    assert len(dls.train) == 2
    for (x, y), (again_x, again_y) in zip(whole[3:], batches(dls.train), strict=True):
        np.testing.assert_array_equal(x, again_x)
        np.testing.assert_array_equal(y, again_y)
    dls.train.window(2, 5, 5)
    assert batches(dls.train) == []


def test_fewer_tiles_than_a_batch():
    assert [len(x) for x, _ in batches(loaders(n=5, bs=16).train)] == [4]


def test_depths_go_with_their_tiles():
    dls = loaders(depth=np.arange(50, dtype=np.float32) / 50)
    assert dls.n_inp == 2
    for loader, count in ((dls.train, 40), (dls.valid, 10)):
        seen = []
        for x, depth, y in loader:
            assert (depth.shape, depth.dtype, y.shape) == ((len(x),), torch.float32, (len(x), 101, 101))
            np.testing.assert_allclose(depth, x[:, 0, 0, 0] / 50, atol=1e-6)
            seen += x[:, 0, 0, 0].tolist()
        assert len(set(seen)) == count
    np.testing.assert_allclose(dls.valid.dataset.depth, np.arange(0, 1, 0.1), atol=1e-6)
    assert loaders().train.dataset.depth is None


@pytest.mark.filterwarnings("ignore")
def test_depths_come_through_loader_processes():
    depth = np.linspace(0, 1, 50, dtype=np.float32)
    for one, other in zip(loaders(depth=depth).train, loaders(depth=depth, workers=2).train, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("depth", [None, np.zeros(50, np.float32)])
def test_batches_and_predictions_are_drawn_with_or_without_depths(depth):
    dls = loaders(depth=depth)
    batch = dls.one_batch()
    dls.show_batch(batch, max_n=2)
    dls.train.show_results(batch, TensorMask(batch[-1] == 0), max_n=2)
    drawn = [len(axes.images) for axes in plt.gcf().axes]
    plt.close("all")
    assert drawn == [2, 2, 2, 2]  # target and prediction beside each other, each upon its tile


def covered(areas):
    """Masks of 10x10 px with so many pixels of salt."""
    return np.arange(100).reshape(1, 10, 10) < np.array(areas)[:, None, None]


@pytest.mark.parametrize(
    "areas", [[0] * 30 + [5] * 3 + [55] * 8, [0] * 5 + [100], [0] * 4, [*range(0, 101, 10)] * 3 + [0] * 40, [7]]
)
def test_each_class_of_coverage_is_drawn_equally_often_and_its_tiles_too(areas):
    rng, kinds = np.random.default_rng(0), -(-np.array(areas) // 10)
    for _ in range(5):
        draws = by_coverage(covered(areas), rng)
        assert len(draws) == len(set(draws)) == len(areas)
        times = np.bincount(draws % len(areas), minlength=len(areas))
        totals = [times[kinds == kind].sum() for kind in np.unique(kinds)]
        assert max(totals) - min(totals) <= 1
        for kind in np.unique(kinds):
            assert np.ptp(times[kinds == kind]) <= 1


def test_which_class_is_drawn_less_often_changes():
    rng, kinds = np.random.default_rng(0), np.array([0, 0, 5, 5, 10])
    fewest = {
        int(np.bincount(kinds[by_coverage(covered(10 * kinds), rng) % 5], minlength=11)[[0, 5, 10]].argmin())
        for _ in range(60)
    }
    assert fewest == {0, 1, 2}


def balanced(**kwargs):
    """An eighth of the 40 training tiles is full of salt, the others are empty."""
    masks = np.zeros((50, 101, 101), bool)
    masks[1::10] = True
    return loaders(masks=masks, sampling="coverage", **kwargs)


def test_balanced_epochs_are_functions_of_seed_and_epoch_in_parts_too():
    dls = balanced()
    assert sum(int(y.amax((1, 2)).sum()) for _, y in dls.train) == 20
    dls.train.window(2, 0, 5)
    whole = batches(dls.train)
    for part in ((0, 2), (2, 5)):
        dls.train.window(2, *part)
        for (x, y), (again_x, again_y) in zip(whole[slice(*part)], batches(dls.train), strict=True):
            np.testing.assert_array_equal(x, again_x)
            np.testing.assert_array_equal(y, again_y)
    for other, epoch in ((balanced(seed=4), 2), (balanced(), 3)):
        other.train.window(epoch, 0, 5)
        assert any((x != again).any() for (x, _), (again, _) in zip(whole, batches(other.train), strict=True))


def test_a_tile_that_is_drawn_again_is_augmented_in_another_way():
    dls = balanced(augment="default")
    salt = [x.tobytes() for images, masks in batches(dls.train) for x, y in zip(images, masks, strict=True) if y.any()]
    assert len(salt) == 20
    assert len(set(salt)) > 12  # 5 tiles four times each; the pipeline leaves some as they are


def test_an_unknown_sampling_lists_the_known_ones():
    with pytest.raises(InputError, match="uniform, coverage"):
        loaders(sampling="depth")


def assert_alike(one, other):
    """The same batches to the bit, of the same types."""
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    for batch, again in zip(one, other, strict=True):
        assert [(type(part), part.dtype, part.shape) for part in batch] == [
            (type(part), part.dtype, part.shape) for part in again
        ]
        assert all(torch.equal(part, same) for part, same in zip(batch, again, strict=True))


# "elastic" has no version for batches, and stays with albumentations
@pytest.mark.parametrize("augment", ["none", "elastic"])
@pytest.mark.parametrize("depth", [None, np.linspace(0, 1, 50, dtype=np.float32)])
@pytest.mark.parametrize("sampling", ["uniform", "coverage"])
def test_tiles_that_lie_on_the_device_give_the_same_batches(augment, depth, sampling):
    masks = arrays()[0] > np.linspace(-30, 255, 50)[:, None, None]
    pair = [
        loaders(masks=masks, augment=augment, depth=depth, sampling=sampling, resident=resident)
        for resident in (False, True)
    ]
    host, device = pair
    assert not host.train.dataset.resident
    assert (len(device.train.dataset.resident) > 0) == (augment == "none")
    assert device.valid.dataset.resident
    for dls in pair:
        dls.train.serve(Stage(bs=9))
    for _ in range(2):
        assert_alike(host.train, device.train)
    for dls in pair:
        dls.train.window(5, 1, 3)
    assert len(device.train) == 2
    assert_alike(host.train, device.train)
    assert_alike(host.valid, device.valid)
    assert host.n_inp == device.n_inp


def test_augmented_on_the_device_tiles_come_in_the_same_order_and_parts_are_exact():
    """The depth is the tile's number, as its first pixel no longer is."""
    settings = {"augment": "default", "depth": np.arange(50, dtype=np.float32), "sampling": "coverage"}
    host, device = (loaders(resident=resident, **settings).train for resident in (False, True))
    for loader in (host, device):
        loader.window(2, 0, 5)
    whole = list(device)
    for (x, depth, y), (host_x, host_depth, _) in zip(whole, host, strict=True):
        np.testing.assert_array_equal(depth, host_depth)
        assert (x != host_x).any()
        assert set(np.unique(y)) <= {0, 1}
    device.window(2, 3, 5)
    assert_alike(device, whole[3:])
    device.window(2, 5, 5)
    assert list(device) == []
    device.window(3, 0, 5)
    assert not any(torch.equal(x, before) for (x, *_), (before, *_) in zip(device, whole, strict=True))


def test_co_training_s_second_net_draws_otherwise_from_the_same_tiles_on_the_device():
    loader = loaders(augment="default", resident=True).train
    other = _reseeded(loader, 8)
    assert all(own is theirs for own, theirs in zip(loader.dataset.resident, other.dataset.resident, strict=True))
    assert loader.dataset.augmenter.seed == 3
    assert_alike(other, loaders(augment="default", resident=True, seed=8).train)


def test_validation_tiles_on_the_device_are_not_augmented():
    dls = loaders(augment="heng", resident=True)
    images, masks = arrays()
    for part, truth in zip((0, 1), (images, masks), strict=True):
        seen = torch.cat([batch[part].reshape(-1, 101, 101) for batch in dls.valid])
        np.testing.assert_array_equal(seen, truth[::5])


def test_batches_made_on_the_device_are_drawn_too():
    dls = loaders(augment="default", resident=True)
    dls.show_batch(max_n=2)
    dls.train.show_results(dls.one_batch(), TensorMask(dls.one_batch()[-1] == 0), max_n=2)
    plt.close("all")


def test_the_tiles_lie_on_the_device_unless_it_is_a_cpu(monkeypatch):
    placed = []
    monkeypatch.setattr(TileDataset, "place_on", lambda self, device: placed.append(device))
    loaders()
    assert placed == []
    make_loaders(*arrays(), np.arange(50) % 5 == 0, augment="none", seed=0, bs=8, device="cuda")
    assert placed == ["cuda", "cuda"]

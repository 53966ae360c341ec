"""Loaders: every tile once an epoch, the same tiles whatever the number of workers, parts of an epoch exact."""

import numpy as np
import pytest
from fastai.torch_core import TensorImage, TensorMask

from kit.training.loaders import make_loaders


def arrays(n=50):
    images = np.random.default_rng(0).integers(0, 256, (n, 101, 101), dtype=np.uint8)
    images[:, 0, 0] = np.arange(n)  # each tile's number, readable where nothing is augmented
    return images, images > 128


def loaders(n=50, workers=0, augment="none", seed=3, bs=8):
    images, masks = arrays(n)
    is_valid = np.arange(n) % 5 == 0
    return make_loaders(images, masks, is_valid, augment=augment, seed=seed, bs=bs, device="cpu", num_workers=workers)


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

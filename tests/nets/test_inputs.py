"""What the encoder sees, against numpy's padding, OpenCV's resizing and plain formulas; and the way back, exactly."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from kit.errors import InputError
from kit.nets.inputs import FITS, Inputs, channel_count, check

SPARE = 27  # pixels from 101 to 128


def tiles(n: int = 3, size: int = 101) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, size, size), dtype=np.uint8))


def grey(**kwargs) -> Inputs:
    """One channel of 0..1, so that levels can be compared with the tiles."""
    return Inputs(**{"size": 128, "channels": "grey", **kwargs}).eval()


def scaled(x: Tensor) -> np.ndarray:
    return x.numpy().astype(np.float32) / np.float32(255)


def resized(x: np.ndarray, side: int) -> np.ndarray:
    return np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_LINEAR) for one in x])


def there_and_back(inputs: Inputs, x: Tensor) -> np.ndarray:
    return inputs.back(*inputs(x))[:, 0].numpy()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fit", ["pad-reflect", "pad-edge", "pad-random"])
@pytest.mark.parametrize("size", [101, 102, 127, 128, 160, 202, 256, 512])
def test_padding_and_cutting_back_is_the_identity(size, fit, training):
    if fit == "pad-reflect" and size > 301:
        pytest.skip("a tile reflects at most 100 px on each side")
    inputs = grey(fit=fit, size=size).train(training)
    assert inputs(tiles())[0].shape == (3, 1, size, size)
    np.testing.assert_array_equal(there_and_back(inputs, tiles()), scaled(tiles()))


@pytest.mark.parametrize("size", [101, 128, 202, 301])
@pytest.mark.parametrize(("fit", "numpys"), [("pad-reflect", "reflect"), ("pad-edge", "edge"), ("pad-random", "edge")])
def test_padding_is_numpys_with_the_tile_in_the_middle(fit, numpys, size):
    before = (size - 101) // 2
    width = ((0, 0), (before, size - 101 - before), (before, size - 101 - before))
    seen = grey(fit=fit, size=size)(tiles())[0][:, 0].numpy()
    np.testing.assert_array_equal(seen, np.pad(scaled(tiles()), width, mode=numpys))


@pytest.mark.parametrize(("resize", "size"), [(192, 224), (202, 256), (101, 128), (128, 160), (64, 64), (64, 96)])
@pytest.mark.parametrize("fit", ["pad-reflect", "pad-edge", "pad-random"])
def test_a_tile_is_resized_before_it_is_padded_and_after_it_was_cut_out(resize, size, fit):
    inputs = grey(resize=resize, size=size, fit=fit)
    before = (size - resize) // 2
    seen = inputs(tiles())[0][:, 0].numpy()
    within = seen[:, before : before + resize, before : before + resize]
    np.testing.assert_allclose(within, resized(scaled(tiles()), resize), atol=1e-5)
    edge = np.pad(within, ((0, 0), *2 * [(before, size - resize - before)]), "reflect" if "reflect" in fit else "edge")
    np.testing.assert_array_equal(seen, edge)
    for training in (False, True):
        back = there_and_back(inputs.train(training), tiles())
        np.testing.assert_allclose(back, resized(within, 101), atol=1e-5)


@pytest.mark.parametrize("size", [64, 101, 128, 202, 224, 512])
def test_resizing_is_bilinear_there_and_back(size):
    inputs = grey(fit="resize", size=size)
    np.testing.assert_allclose(inputs(tiles())[0][:, 0].numpy(), resized(scaled(tiles()), size), atol=1e-5)
    np.testing.assert_allclose(there_and_back(inputs, tiles()), resized(resized(scaled(tiles()), size), 101), atol=1e-5)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("tile_size", "resize", "size"), [(96, 0, 96), (96, 0, 128), (101, 64, 64), (64, 96, 128)])
def test_tiles_of_any_size_come_back_in_their_size(tile_size, resize, size, fit):
    inputs = grey(fit=fit, size=size, resize=0 if fit == "resize" else resize, tile_size=tile_size)
    assert there_and_back(inputs, tiles(2, tile_size)).shape == (2, tile_size, tile_size)


def places(inputs: Inputs, n: int) -> np.ndarray:
    """Where the one white pixel of n tiles, at row 40 and column 50, lies in the input: (n, 2)."""
    spot = torch.zeros(n, 101, 101, dtype=torch.uint8)
    spot[:, 40, 50] = 255
    seen = inputs(spot)[0][:, 0].numpy()
    return np.stack(np.nonzero(seen == 1)[1:], 1)


def test_padding_puts_the_odd_pixel_after_the_tile():
    assert places(grey(fit="pad-edge"), 1).tolist() == [[40 + 13, 50 + 13]]


def test_random_padding_gives_each_tile_a_place_of_its_own_all_places_alike():
    torch.manual_seed(0)
    n = 28 * 40
    offsets = places(grey(fit="pad-random").train(), n) - [40, 50]
    assert offsets.min() == 0
    assert offsets.max() == SPARE
    for axis in range(2):
        counts = np.bincount(offsets[:, axis], minlength=SPARE + 1)
        assert ((counts - 40) ** 2 / 40).sum() < 55.5  # chi-squared of 27 degrees: once in a thousand
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.1


def test_random_padding_repeats_the_edge_around_the_place():
    torch.manual_seed(1)
    inputs = grey(fit="pad-random").train()
    seen, corners = inputs(tiles(5))
    assert len({tuple(corner) for corner in corners}) > 1
    for one, tile, (top, left) in zip(seen[:, 0].numpy(), scaled(tiles(5)), corners, strict=True):
        np.testing.assert_array_equal(one, np.pad(tile, ((top, SPARE - top), (left, SPARE - left)), mode="edge"))


def test_random_padding_is_a_function_of_torchs_seed():
    inputs = grey(fit="pad-random").train()
    first, second, again = (torch.manual_seed(seed) and inputs(tiles(8))[0] for seed in (3, 4, 3))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_gradients_of_maps_arrive_at_the_tiles_place_only():
    torch.manual_seed(2)
    inputs = grey(fit="pad-random").train()
    _, corners = inputs(tiles(4))
    maps = torch.zeros(4, 1, 128, 128, requires_grad=True)
    inputs.back(maps, corners).sum().backward()
    for grad, (top, left) in zip(maps.grad[:, 0], corners, strict=True):
        assert grad.sum() == grad[top : top + 101, left : left + 101].sum() == 101**2


@pytest.mark.parametrize("coarse", [16, 32, 64])
def test_coarser_maps_are_brought_to_the_input_first(coarse):
    maps = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 1, coarse, coarse)).astype(np.float32))
    back = grey().back(maps, None)[:, 0].numpy()
    np.testing.assert_allclose(back, resized(maps[:, 0].numpy(), 128)[:, 13:114, 13:114], atol=1e-5)


def test_grey3_has_each_channel_normalised_by_its_own_mean():
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.25, 1.0)
    seen, _ = Inputs(size=101, channels="grey3", mean=mean, std=std)(tiles())
    for channel in range(3):
        expected = (scaled(tiles()) - mean[channel]) / std[channel]
        np.testing.assert_allclose(seen[:, channel].numpy(), expected, atol=1e-6)


def test_channels_are_what_their_names_say_in_their_order():
    mean, std = (0.25, 0.5, 0.75), (0.25, 0.125, 0.375)  # means 0.5 and 0.25
    depth = torch.tensor([0.0, 0.3, 1.1])
    inputs = Inputs(size=128, fit="pad-edge", channels="depth+grey*y+y+grey", mean=mean, std=std)
    seen = inputs(tiles(), depth)[0].numpy()
    level = (np.pad(scaled(tiles()), ((0, 0), (13, 14), (13, 14)), mode="edge") - 0.5) / 0.25
    rows = np.broadcast_to(np.arange(128)[:, None] / 127, (128, 128))
    for channel, expected in enumerate([depth[:, None, None], level * rows, rows, level]):
        np.testing.assert_allclose(seen[:, channel], np.broadcast_to(expected, level.shape), atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "count"), [("grey3", 3), ("grey", 1), ("grey+depth+y", 3), ("grey+y+grey*y", 3), ("depth+y", 2)]
)
def test_channels_are_counted(channels, count):
    assert channel_count(channels) == count
    inputs = Inputs(size=128, channels=channels)
    assert inputs(tiles(), torch.zeros(3))[0].shape == (3, count, 128, 128)
    assert inputs.needs_depth == ("depth" in channels)
    assert not inputs.state_dict()


@pytest.mark.parametrize("depth", [None, torch.zeros(2), torch.zeros(3, 1)])
def test_a_depth_for_each_tile_is_demanded_where_it_is_seen(depth):
    with pytest.raises(ValueError, match="one for each of the 3 tiles"):
        Inputs(size=128, channels="grey+depth")(tiles(), depth)
    Inputs(size=128, channels="grey+y")(tiles(), depth)  # which does not look at it


@pytest.mark.parametrize("shape", [(3, 3, 101, 101), (3, 128, 128), (101, 101)])
def test_tiles_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="give"):
        grey()(torch.zeros(shape))


@pytest.mark.parametrize("channels", ["rgb", "", "grey+", "grey + y", "grey3+y", "grey,y"])
def test_channels_that_are_none_are_refused(channels):
    with pytest.raises(InputError, match=r"use grey3 or grey, depth, y, grey\*y with \+"):
        channel_count(channels)


@pytest.mark.parametrize("channels", ["grey+grey", "y+grey+depth+y", "grey*y+grey*y"])
def test_a_channel_that_stands_there_twice_is_refused(channels):
    with pytest.raises(InputError, match=r"(grey|y|grey\*y) stands there more than once"):
        channel_count(channels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 100}, "size 100 .* 101 px: give at least 101"),
        ({"size": 302}, "size 302 .* at most 301"),
        ({"size": 31, "fit": "resize"}, "size 31 .* at least 32"),
        ({"size": 224, "resize": 225}, "size 224 .* 225 px: give at least 225"),
        ({"size": 191, "resize": 64}, "size 191 .* at most 190"),
        ({"resize": 31}, "resize 31 .* at least 32"),
        ({"resize": -1}, "resize -1 .* at least 32"),
        ({"resize": 64, "fit": "resize"}, "resize 64 .* leave it 0"),
        ({"fit": "crop"}, "'crop' .* pad-reflect or pad-edge or pad-random or resize"),
    ],
)
def test_sizes_that_cannot_be_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        check(**{"size": 128, "resize": 0, "fit": "pad-reflect", "tile_size": 101, **values})


@pytest.mark.parametrize(
    "values",
    [{"size": 301}, {"size": 190, "resize": 64}, {"size": 512, "fit": "pad-edge"}, {"size": 32, "fit": "resize"}],
)
def test_the_widest_sizes_are_taken(values):
    values = {"resize": 0, "fit": "pad-reflect", **values}
    check(**values, tile_size=101)
    assert there_and_back(grey(**values), tiles()).shape == (3, 101, 101)

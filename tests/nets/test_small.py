"""The encoder for a CPU: its scales, its size by hand, and that it loses no pixel."""

import pytest
import torch

from kit.errors import InputError
from kit.nets import encoders, small


def test_four_scales_from_half_resolution_on():
    encoder = encoders.build("salt_small", in_channels=2, pretrained=False, image_size=104)
    assert encoder.channels == (48, 96, 160, 256)
    sides = [x.shape[-1] for x in encoder.features(torch.zeros(2, 2, 104, 104))]
    assert sides == [52, 26, 13, 7]


def test_parameters_counted_by_hand():
    def conv(inputs, outputs, side):
        return inputs * outputs * side * side + 2 * outputs  # with its batch-norm

    def block(inputs, outputs):
        return conv(inputs, outputs, 3) + conv(outputs, outputs, 3) + (conv(inputs, outputs, 1) * (inputs != outputs))

    pairs = [(48, 48), (48, 96), (96, 96), (96, 160), (160, 160), (160, 256), (256, 256)]
    expected = conv(4 * 1, 48, 3) + sum(block(*pair) for pair in pairs)
    encoder = encoders.build("salt_small", in_channels=1, pretrained=False, image_size=104)
    assert sum(p.numel() for p in encoder.parameters()) == expected


def test_a_fresh_block_is_the_identity_of_what_is_positive():
    block, x = small.Residual(8, 8, 1), torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), x.relu())


def test_every_pixel_reaches_the_first_stage():
    encoder = encoders.build("salt_small", in_channels=1, pretrained=False, image_size=104)
    x = torch.rand(1, 1, 104, 104, requires_grad=True)
    encoder.eval()[0](x).square().sum().backward()
    assert (x.grad != 0).all()


def test_an_odd_side_is_refused():
    with pytest.raises(InputError, match="salt_small cannot serve at 101 px"):
        encoders.build("salt_small", pretrained=False, image_size=101)


def test_there_are_no_pretrained_weights():
    with pytest.raises(InputError, match="salt_small"):
        encoders.build("salt_small", pretrained=True, image_size=104)

"""Each block against its paper's formula, written here in numpy, or against another library."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from kit.nets import blocks


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in evaluation mode with random numbers everywhere, batch statistics and zeroed weights included."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            low = 0.5 if name.endswith("running_var") else -0.4
            value.copy_(low + 0.8 * torch.rand(value.shape, generator=generator))
    return module.eval().double()


def maps(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def agree(module: nn.Module, expected, *args) -> None:
    np.testing.assert_allclose(module(*args).numpy(), expected, rtol=1e-9, atol=1e-12)


# the formulas' own alphabet, for one image x (C, H, W)


def array(value: torch.Tensor) -> np.ndarray:
    return value.detach().numpy()


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def correlated(channel, kernel):
    return ndimage.correlate(channel, kernel, mode="constant")


def convolved(x, layer: nn.Conv2d):
    """Cross-correlation with zeros around, one channel at a time."""
    kernels = array(layer.weight)
    spread = layer.dilation[0]
    wide = np.zeros((*kernels.shape[:2], *(spread * (side - 1) + 1 for side in kernels.shape[2:])))
    wide[..., ::spread, ::spread] = kernels
    total = np.stack([sum(map(correlated, x, row)) for row in wide])
    return total if layer.bias is None else total + array(layer.bias)[:, None, None]


def normed(x, layer: nn.BatchNorm2d):
    mean, var, weight, bias = (
        array(v)[:, None, None] for v in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x - mean) / np.sqrt(var + layer.eps) * weight + bias


def conv(x, layers: nn.Sequential):
    """Convolution, batch-norm, ReLU."""
    return relu(normed(convolved(x, layers[0]), layers[1]))


def mean(x):
    return x.mean((1, 2), keepdims=True)


def linear(size: int, wanted: int) -> np.ndarray:
    """Linear interpolation as a matrix (wanted, size): pixel centres at halves, the border repeated."""
    at = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    return np.clip(1 - np.abs(at[:, None] - np.arange(size)), 0, None)


def resized(x, height: int, width: int):
    return linear(x.shape[1], height) @ x @ linear(x.shape[2], width).T


def pooled(x):
    """Max over 2x2, an odd border alone."""
    padded = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2)), constant_values=-np.inf)
    return np.max([padded[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def region_means(x, rows: int, cols: int):
    """Means over a grid of regions that cover the map, overlapping where its side is no multiple."""

    def cut(n, size):
        return [slice(i * size // n, -(-(i + 1) * size // n)) for i in range(n)]

    return np.array([[[c[r, s].mean() for s in cut(cols, x.shape[2])] for r in cut(rows, x.shape[1])] for c in x])


FORMULAS = {
    "relu": relu,
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "silu": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
}


@pytest.mark.parametrize("name", blocks.ACTIVATIONS)
def test_activations_are_their_formulas(name):
    x = np.linspace(-5, 5, 101)
    agree(blocks.ACTIVATIONS[name](), FORMULAS[name](x), torch.tensor(x))


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (5, 1), (3, 2), (3, 4)])
def test_conv_is_the_formula_and_keeps_the_side(kernel, dilation):
    block, x = randomised(blocks.conv(3, 4, "relu", kernel, dilation)), maps(2, 3, 7, 6)
    expected = np.stack([conv(image, block) for image in array(x)])
    agree(block, expected, x)


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_a_residual_conv_is_a_convolution_and_two_units_of_the_papers_formula(activation):
    block, x, act = randomised(blocks.residual_conv(3, 4, activation)), maps(2, 3, 7, 6), FORMULAS[activation]
    first, *units = block
    expected = []
    for image in array(x):
        image = convolved(image, first)
        for unit in units:
            norm1, _, conv1, norm2, _, conv2 = unit.parts
            image = image + convolved(act(normed(convolved(act(normed(image, norm1)), conv1), norm2)), conv2)
        expected.append(image)
    assert len(units) == 2
    agree(block, expected, x)


@pytest.mark.parametrize("channels", [16, 24, 64])
def test_scse_agrees_with_segmentation_models_pytorch(channels):
    smp = pytest.importorskip("segmentation_models_pytorch")
    ours, theirs = randomised(blocks.SCSE(channels)), smp.base.modules.SCSEModule(channels, reduction=16).double()
    theirs.cSE[1].load_state_dict(ours.channel[0].state_dict())
    theirs.cSE[3].load_state_dict(ours.channel[2].state_dict())
    theirs.sSE[0].load_state_dict(ours.spatial.state_dict())
    x = maps(2, channels, 5, 7)
    agree(ours, theirs(x).detach(), x)


def test_a_fresh_scse_changes_nothing_and_learns():
    torch.manual_seed(0)
    block, x = blocks.SCSE(64), maps(2, 64, 5, 5).float()
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.channel[-1].weight.grad.abs().sum() > 0
    assert block.spatial.weight.grad.abs().sum() > 0


def test_bam_is_the_papers_formula():
    block, x = randomised(blocks.BAM(32)), maps(2, 32, 9, 10)
    w0, _, w1, norm = block.channel
    expected = []
    for image in array(x):
        channel = normed(convolved(relu(convolved(mean(image), w0)), w1), norm)
        spatial = image
        for layers in block.spatial[:3]:
            spatial = conv(spatial, layers)
        spatial = normed(convolved(spatial, block.spatial[3]), block.spatial[4])
        expected.append(image * (1 + sigmoid(channel + spatial)))
    assert [layers[0].dilation for layers in block.spatial[:3]] == [(1, 1), (4, 4), (4, 4)]
    agree(block, expected, x)


@pytest.mark.parametrize(("fine", "coarse"), [((8, 6), (4, 3)), ((13, 13), (7, 7))])
def test_attention_gate_is_the_papers_formula(fine, coarse):
    gate = randomised(blocks.AttentionGate(6, 10))
    skip, gating = maps(2, 6, *fine), maps(2, 10, *coarse, seed=2)
    expected = []
    for x, g in zip(array(skip), array(gating), strict=True):
        x_coarse = region_means(x, *coarse)
        alpha = sigmoid(convolved(relu(convolved(x_coarse, gate.skip) + convolved(g, gate.gating)), gate.psi))
        expected.append(x * resized(alpha, *fine))
    agree(gate, expected, skip, gating)


@pytest.mark.parametrize("side", [4, 5, 8])
def test_feature_pyramid_attention_is_the_papers_formula_without_its_7x7_branch(side):
    block, x = randomised(blocks.FeaturePyramidAttention(6, 4, "relu")), maps(2, 6, side, side)
    expected = []
    for image in array(x):
        a = conv(pooled(image), block.down[0])
        b = conv(pooled(a), block.down[1])
        pyramid = conv(a, block.side[0]) + resized(conv(b, block.side[1]), *a.shape[1:])
        expected.append(conv(image, block.local) * resized(pyramid, side, side) + convolved(mean(image), block.whole))
    assert {layer.kernel_size for layer in block.modules() if isinstance(layer, nn.Conv2d)} == {(1, 1), (3, 3), (5, 5)}
    agree(block, expected, x)


@pytest.mark.parametrize("side", [4, 8])
def test_pyramid_pooling_is_the_papers_formula(side):
    block, x = randomised(blocks.PyramidPooling(8, 5, "relu")), maps(2, 8, side, side)
    expected = []
    for image in array(x):
        levels = [
            resized(conv(region_means(image, bins, bins), level[1]), side, side)
            for bins, level in zip((1, 2, 3, 6), block.levels, strict=True)
        ]
        expected.append(conv(np.concatenate([image, *levels]), block.last))
    agree(block, expected, x)


def test_dilated_is_the_sum_of_ever_wider_convolutions():
    block, x = randomised(blocks.Dilated(6, 4, "relu")), maps(2, 6, 8, 8)
    expected = []
    for image in array(x):
        steps = [conv(image, block.first)]
        for layers in block.layers:
            steps.append(conv(steps[-1], layers))
        expected.append(sum(steps))
    assert [layers[0].dilation[0] for layers in block.layers] == [1, 2, 4]
    agree(block, expected, x)


def test_a_hypercolumn_is_a_1x1_convolution_of_the_stacked_maps():
    block, sides = randomised(blocks.Hypercolumn([3, 2, 4], 5, "elu")), (3, 7, 14)
    scales = [maps(2, channels, side, side) for channels, side in zip((3, 2, 4), sides, strict=True)]
    weight = np.concatenate([array(layer.weight)[..., 0, 0] for layer in block.scales], axis=1)
    expected = []
    for image in zip(*map(array, scales), strict=True):
        stacked = np.concatenate([resized(x, 14, 14) for x in image])
        expected.append(FORMULAS["elu"](normed(np.einsum("oc,chw->ohw", weight, stacked), block.last[0])))
    agree(block, expected, scales)


@pytest.mark.parametrize("size", [(8, 6), (9, 6), (7, 5)])
@pytest.mark.parametrize("how", blocks.UPSAMPLING)
def test_upsampling_is_its_formula_at_any_size(how, size):
    block, x = randomised(blocks.Upsample(3, 2, how)), maps(2, 3, 4, 3)
    expected = []
    for image in array(x):
        if how == "nearest":
            rows, cols = (np.arange(wanted) * have // wanted for wanted, have in zip(size, (4, 3), strict=True))
            image = image[:, rows][:, :, cols]
        elif how == "transposed":
            # each pixel becomes a 2x2 square, a weighted sum of the kernels of its channels
            squares = np.einsum("chw,coij->ohiwj", image, array(block.twice.weight)).reshape(2, 8, 6)
            image = squares + array(block.twice.bias)[:, None, None]
        expected.append(resized(image, *size))
    assert block.channels == (2 if how == "transposed" else 3)
    agree(block, expected, x, torch.Size(size))


@pytest.mark.parametrize("name", blocks.CENTRES)
@pytest.mark.parametrize("side", [1, 2, 4, 7])
def test_centres_keep_the_side_of_any_map(name, side):
    assert blocks.CENTRES[name](12, 8, "mish")(torch.randn(2, 12, side, side)).shape == (2, 8, side, side)

"""Losses against the papers' definitions and other libraries, on every kind of mask."""

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from kit.errors import InputError
from kit.nets.losses import LOSSES, bce, bce_dice, dice, focal, lovasz_hinge, mix, symmetric_lovasz_hinge

MASKS = ["random", "blob", "empty", "full", "single pixel", "all but one"]


def masks(kind: str, shape: tuple[int, int, int] = (3, 7, 9)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(MASKS.index(kind))
    mask = torch.zeros(shape, dtype=torch.uint8)
    if kind == "random":
        mask = (torch.rand(shape, generator=generator) > 0.6).to(torch.uint8)
    elif kind == "blob":
        mask[:, 2:5, 3:] = 1
    elif kind in ("full", "all but one"):
        mask[:] = 1
    if kind in ("single pixel", "all but one"):
        mask[:, 3, 4] = 1 - mask[:, 3, 4]
    return mask


def logits(shape: tuple[int, int, int] = (3, 7, 9), seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Values whose errors are distinct on every tile for any mask, so that their order is unique."""
    rng = np.random.default_rng(seed)
    values = np.stack([rng.permutation(np.prod(shape[1:])) for _ in range(shape[0])]).reshape(shape)
    return torch.tensor((values / np.prod(shape[1:]) - 0.47) * 6 + 0.0137, dtype=dtype, requires_grad=True)


def lovasz_by_definition(tile, mask, hinge) -> torch.Tensor:
    """Berman et al., CVPR 2018, eq. 8 and 9, with the Jaccard loss of a set of wrong pixels counted on Python sets."""
    salt = {i for i, value in enumerate(mask.flatten().tolist()) if value}

    def jaccard_loss(wrong: set[int]) -> float:
        predicted = salt ^ wrong
        return 1 - len(salt & predicted) / len(salt | predicted) if salt | predicted else 0.0

    signs = 2.0 * mask.flatten() - 1
    margin_errors = hinge(1 - tile.flatten() * signs)
    total, prefix = torch.zeros((), dtype=tile.dtype), set()
    for pixel in margin_errors.argsort(descending=True).tolist():
        total = total + margin_errors[pixel] * (jaccard_loss(prefix | {pixel}) - jaccard_loss(prefix))
        prefix.add(pixel)
    return total


HINGES = {"relu": torch.relu, "elu": lambda x: torch.nn.functional.elu(x) + 1}


@pytest.mark.parametrize("activation", HINGES)
@pytest.mark.parametrize("kind", MASKS)
def test_lovasz_is_the_papers_in_value_and_gradient(kind, activation):
    ours, paper, mask = logits(), logits(), masks(kind)
    value = lovasz_hinge(ours, mask, activation)
    expected = sum(lovasz_by_definition(t, m, HINGES[activation]) for t, m in zip(paper, mask, strict=True)) / len(mask)
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(ours.grad, paper.grad, rtol=1e-5, atol=1e-9)
    assert ours.grad.abs().sum() > 0


@pytest.mark.parametrize("activation", HINGES)
@pytest.mark.parametrize("kind", MASKS)
def test_symmetric_lovasz_is_the_mean_of_both_sides(kind, activation):
    ours, paper, mask = logits(), logits(), masks(kind)
    value = symmetric_lovasz_hinge(ours, mask, activation)
    sides = [
        (lovasz_by_definition(t, m, HINGES[activation]) + lovasz_by_definition(-t, 1 - m, HINGES[activation])) / 2
        for t, m in zip(paper, mask, strict=True)
    ]
    expected = sum(sides) / len(mask)
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(ours.grad, paper.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", MASKS)
def test_lovasz_agrees_with_segmentation_models_pytorch(kind):
    smp = pytest.importorskip("segmentation_models_pytorch")
    shape = (3, 20, 20)
    ours, theirs = (logits(shape, dtype=torch.float32) for _ in range(2))
    mask = masks(kind, shape)
    value = lovasz_hinge(ours, mask)
    expected = smp.losses.LovaszLoss(mode="binary", per_image=True)(theirs, mask)
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    # theirs takes differences of float32 fractions near 1, good to about 1e-7; ours are of order 1/400
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-7)


def test_lovasz_of_a_hard_prediction_is_its_jaccard_loss():
    mask = masks("blob")
    prediction = torch.roll(mask, 1, dims=2)
    overlap, union = (mask & prediction).sum().item(), (mask | prediction).sum().item()
    # the hinge of a pixel wrong by a margin of 1 is 2, of a right one 0
    assert lovasz_hinge(2.0 * prediction - 1, mask).item() == pytest.approx(2 * (1 - overlap / union), rel=1e-6)


def test_lovasz_weights_keep_their_precision_in_float32_on_a_whole_tile():
    mask = masks("random", (1, 101, 101))
    single, double = logits(mask.shape, dtype=torch.float32), logits(mask.shape)
    lovasz_hinge(single, mask).backward()
    signs = 2.0 * mask - 1
    errors = (1 - double * signs).flatten().detach().numpy()
    salt = mask.flatten().numpy()[np.argsort(-errors)].astype(np.float64)
    fraction = 1 - (salt.sum() - salt.cumsum()) / (salt.sum() + (1 - salt).cumsum())
    steps = np.empty(salt.size)
    steps[np.argsort(-errors)] = np.diff(fraction, prepend=0)
    expected = np.where(errors > 0, -signs.flatten().numpy() * steps, 0)
    np.testing.assert_allclose(single.grad.flatten().numpy(), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in MASKS if kind != "empty"])  # theirs is 0 on empty tiles
def test_dice_agrees_with_segmentation_models_pytorch(kind):
    smp = pytest.importorskip("segmentation_models_pytorch")
    mask = masks(kind)
    theirs = smp.losses.DiceLoss(mode="binary", smooth=0.5)  # added to half of our numerator and denominator
    expected = [theirs(t[None, None], m[None, None]).item() for t, m in zip(logits(), mask, strict=True)]
    assert dice(logits(), mask).item() == pytest.approx(np.mean(expected), rel=1e-6)


def test_dice_on_empty_tiles_goes_to_zero_with_the_prediction():
    mask = masks("empty")
    assert dice(torch.full(mask.shape, -30.0), mask).item() == pytest.approx(0, abs=1e-6)
    assert dice(torch.full(mask.shape, 30.0), mask).item() == pytest.approx(1 - 1 / 64, rel=1e-5)


@pytest.mark.parametrize("kind", MASKS)
def test_focal_agrees_with_torchvision(kind):
    from torchvision.ops import sigmoid_focal_loss

    mask = masks(kind)
    expected = sigmoid_focal_loss(logits(), mask.double(), alpha=-1, gamma=2, reduction="mean")
    assert focal(logits(), mask).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_bce_is_the_formula(soft):
    target = masks("random").double() * (0.8 if soft else 1)
    prob = 1 / (1 + np.exp(-logits().detach().numpy()))
    expected = -(target.numpy() * np.log(prob) + (1 - target.numpy()) * np.log(1 - prob)).mean()
    assert bce(logits(), target).item() == pytest.approx(expected, rel=1e-9)
    assert bce_dice(logits(), target).item() == pytest.approx(expected + dice(logits(), target).item(), rel=1e-9)


def can_cast_fakes() -> bool:
    """Older torch, such as the oldest that is allowed, refuses."""
    try:
        with FakeTensorMode():
            torch.empty(1).as_subclass(torch.Tensor)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_is_the_mean_of_its_tiles_alone(self, name):
        mask = torch.cat([masks(kind) for kind in MASKS])
        values = logits(tuple(mask.shape))
        alone = [LOSSES[name](values[i : i + 1], mask[i : i + 1]).item() for i in range(len(mask))]
        counted = [loss for loss, tile in zip(alone, mask, strict=True) if tile.any() or "nonempty" not in name]
        assert LOSSES[name](values, mask).item() == pytest.approx(np.mean(counted), rel=1e-6)
        assert LOSSES[name](values, mask, reduction="none").tolist() == pytest.approx(alone, rel=1e-6)

    @pytest.mark.parametrize("kind", MASKS)
    def test_gradient_is_finite_and_agrees_with_differences(self, name, kind):
        mask = masks(kind, (2, 4, 5))
        assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, mask), logits((2, 4, 5)), eps=1e-5, atol=1e-5)

    def test_falls_as_the_prediction_gets_better(self, name):
        sign = 2.0 * masks("blob") - 1
        values = [LOSSES[name](scale * sign, masks("blob")).item() for scale in (-2, -1, 0, 0.5)]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 4

    def test_survives_extreme_logits(self, name):
        values = torch.tensor([1e4, -1e4, 0.0, 88.0]).repeat(16).reshape(1, 8, 8).requires_grad_()
        loss = LOSSES[name](values, masks("random", (1, 8, 8)))
        loss.backward()
        assert loss.isfinite()
        assert values.grad.isfinite().all()

    def test_stays_float32_under_autocast(self, name):
        values, mask = logits(dtype=torch.float32), masks("random")
        with torch.autocast("cpu", torch.bfloat16):
            inside = LOSSES[name](values, mask)
            of_bfloat16 = LOSSES[name](values.bfloat16(), mask)
        assert inside.dtype == of_bfloat16.dtype == torch.float32
        assert inside.item() == LOSSES[name](values, mask).item()
        assert of_bfloat16.item() == LOSSES[name](values.bfloat16().float(), mask).item()

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32])
    def test_takes_targets_of_any_dtype(self, name, dtype):
        expected = LOSSES[name](logits(), masks("blob").double()).item()
        assert LOSSES[name](logits(), masks("blob").to(dtype)).item() == expected

    @pytest.mark.skipif(not can_cast_fakes(), reason="this torch cannot cast a fake tensor")
    def test_reads_nothing_back_to_the_host(self, name):
        # a fake tensor has no values: anything that asked for one (item, bool, indexing by a mask) would raise
        with FakeTensorMode():
            loss = LOSSES[name](torch.empty(4, 101, 101), torch.empty(4, 101, 101))
        assert loss.shape == ()

    def test_refuses_shapes_that_would_broadcast(self, name):
        with pytest.raises(ValueError, match="differ in shape"):
            LOSSES[name](logits()[:, None], masks("blob"))

    def test_takes_fastais_tensor_types(self, name):
        fastai = pytest.importorskip("fastai.vision.core")
        values, mask = logits(dtype=torch.float32), masks("blob")
        mixed = LOSSES[name](fastai.TensorImage(values), fastai.TensorMask(mask))
        assert mixed.item() == LOSSES[name](values, mask).item()


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match='use "relu" or "elu"'):
        lovasz_hinge(logits(), masks("blob"), "gelu")


class TestMix:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("lovasz", {"lovasz": 1}),
            ("bce + dice", {"bce": 1, "dice": 1}),
            ("0.1*bce+0.9 * lovasz_elu", {"bce": 0.1, "lovasz_elu": 0.9}),
        ],
    )
    def test_is_the_weighted_sum(self, text, parts):
        loss, mask = mix(text), torch.cat([masks(kind) for kind in MASKS])
        values = logits(tuple(mask.shape))
        expected = sum(weight * LOSSES[name](values, mask).item() for name, weight in parts.items())
        assert loss(values, mask).item() == pytest.approx(expected, rel=1e-6)
        assert mix(loss.name) == loss

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0.1*bce + lovas", "did you mean lovasz"),
            ("xyzzy", "bce or bce_dice or dice"),
            ("-1*bce", "weight -1 of bce must be a positive number"),
            ("0*bce", "must be a positive"),
            ("nan*bce", "must be a positive"),
            ("inf*bce", "must be a positive"),
            ("one*bce", "must be a positive"),
            ("bce +", 'cannot read ""'),
            ("", 'cannot read ""'),
            ("bce*0.1", 'no loss is called "0"|cannot read|must be a positive'),
        ],
    )
    def test_refuses_what_it_cannot_read_in_one_line(self, text, message):
        with pytest.raises(InputError, match=message) as error:
            mix(text)
        assert "\n" not in str(error.value)

    def test_gives_fastai_probabilities_masks_and_losses_of_tiles(self):
        from fastai.vision.all import Learner

        mask = torch.cat([masks(kind) for kind in MASKS])
        values = logits(tuple(mask.shape), dtype=torch.float32).detach()
        learner = Learner(loaders(values, mask), torch.nn.PReLU(init=1.0), loss_func=mix("0.1*bce + 0.9*lovasz"))
        with learner.no_bar(), learner.no_logging():
            prob, target, decoded, losses = learner.get_preds(with_decoded=True, with_loss=True)
        torch.testing.assert_close(prob, values.sigmoid())
        assert torch.equal(decoded, values > 0)
        assert torch.equal(target, mask)
        expected = [mix("0.1*bce + 0.9*lovasz")(v[None], m[None]).item() for v, m in zip(values, mask, strict=True)]
        assert losses.tolist() == pytest.approx(expected, rel=1e-5)
        assert learner.loss_func.reduction == "mean"
        assert learner.validate()[0] == pytest.approx(np.mean(expected), rel=1e-5)


def loaders(images: torch.Tensor, targets: torch.Tensor):
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader

    data = list(zip(images, targets, strict=True))
    return DataLoaders(*(DataLoader(data, bs=5, shuffle=False, num_workers=0) for _ in range(2)), device="cpu")


def test_mixed_losses_train_a_pixel_model_to_the_mask():
    mask = masks("blob", (1, 12, 12))
    for name in LOSSES:
        values = torch.zeros(mask.shape).add(0.01 * logits(mask.shape, dtype=torch.float32).detach()).requires_grad_()
        optimiser = torch.optim.Adam([values], lr=0.1)
        for _ in range(60):
            optimiser.zero_grad()
            mix(name)(values, mask).backward()
            optimiser.step()
        assert torch.equal(values > 0, mask.bool()), name

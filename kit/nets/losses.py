"""Losses for binary masks, each computed per tile and averaged over the batch, and mixes of them by name.

A new loss is one function under `per_tile` and one line in LOSSES; recipes name losses as "0.1*bce + 0.9*lovasz".
"""

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kit.errors import InputError


def per_tile(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Turn a loss of flattened tiles, (N, P) logits and targets -> (N,), into one of batches, (N, H, W) -> scalar.

    The loss runs in float32 (float64 for float64 logits) whatever autocast says: a bfloat16 sum over 10,000 pixels
    keeps two digits. Targets may have any dtype. `reduction="none"` returns the losses of the tiles, (N,), instead of
    their mean. Raises ValueError where the shapes differ, which would otherwise broadcast in silence.
    """

    @wraps(loss)
    def batched(logits: Tensor, targets: Tensor, *args: Any, reduction: str = "mean", **kwargs: Any) -> Tensor:
        if logits.shape != targets.shape:
            shapes = f"{tuple(logits.shape)} and targets {tuple(targets.shape)}"
            raise ValueError(f"logits {shapes} differ in shape: give both as (N, H, W)")
        # fastai's tensor subclasses refuse to meet each other in one operation
        logits, targets = (x.as_subclass(Tensor).flatten(1) for x in (logits, targets))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        with torch.autocast(logits.device.type, enabled=False):
            losses = loss(logits.to(dtype), targets.to(dtype), *args, **kwargs)
        return losses.mean() if reduction == "mean" else losses

    return batched


@per_tile
def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, mean over pixels. Targets may be soft."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


@per_tile
def dice(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    """Soft Dice loss, 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth). Targets may be soft.

    V-Net (Milletari et al., 3DV 2016) with first powers in the denominator; `smooth`, in pixels, gives empty tiles a
    loss that goes to 0 as the prediction empties.
    """
    prob = logits.sigmoid()
    overlap = (prob * targets).sum(1)
    return 1 - (2 * overlap + smooth) / (prob.sum(1) + targets.sum(1) + smooth)


@per_tile
def bce_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """BCE + Dice with equal weights. Targets may be soft."""
    return bce(logits, targets, reduction="none") + dice(logits, targets, reduction="none")


@per_tile
def focal(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017, eq. 4), mean over pixels, without class weights. Targets may be soft."""
    prob = logits.sigmoid()
    miss = prob + targets - 2 * prob * targets  # 1 - p_t
    return (miss**gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).mean(1)


@per_tile
def lovasz_hinge(logits: Tensor, targets: Tensor, activation: str = "relu") -> Tensor:
    """Lovasz hinge: the convex surrogate of 1 - IoU of each tile (Berman et al., CVPR 2018).

    `activation` is applied to the margin errors 1 - logit * sign: "relu" is the paper's hinge; "elu" is elu + 1, which
    keeps a gradient on pixels that are already right (first place of the TGS competition). Soft targets are cut at 0.5:
    the loss is defined on sets of pixels.
    """
    positive = targets > 0.5
    errors, order = _sorted_errors(logits, positive)
    return (_hinge(errors, activation) * _jaccard_steps(positive.gather(1, order))).sum(1)


@per_tile
def symmetric_lovasz_hinge(logits: Tensor, targets: Tensor, activation: str = "relu") -> Tensor:
    """Mean of the Lovasz hinge for salt and the one for background (negated logits, inverted targets).

    Empty tiles, on which the plain loss sees only the worst pixel, get a gradient on all (ninth place of TGS).
    """
    positive = targets > 0.5
    # negating the logits and inverting the targets leaves the errors, and so their order, as they are
    errors, order = _sorted_errors(logits, positive)
    positive = positive.gather(1, order)
    steps = (_jaccard_steps(positive) + _jaccard_steps(~positive)) / 2
    return (_hinge(errors, activation) * steps).sum(1)


def has_salt(targets: Tensor) -> Tensor:
    """Which tiles are not empty, bool (N,), of targets (N, H, W) of any dtype; a pixel is salt above 0.5."""
    return (targets.as_subclass(Tensor) > 0.5).flatten(1).any(1)


def over_salt(losses: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Losses of tiles, (N,), averaged over those with salt, 0 where there are none; "none": (N,), 0 for empty ones."""
    salted = has_salt(targets)
    kept = torch.where(salted, losses, 0)
    return kept.sum() / salted.sum().clamp(min=1) if reduction == "mean" else kept


def on_salt(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss that looks at tiles with salt only: empty ones, left to another term or head, count for nothing."""

    def masked(logits: Tensor, targets: Tensor, *args: Any, reduction: str = "mean", **kwargs: Any) -> Tensor:
        return over_salt(loss(logits, targets, *args, reduction="none", **kwargs), targets, reduction)

    return masked


def _sorted_errors(logits: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Margin errors of each tile, the worst first, and the order that sorts them."""
    signs = positive.to(logits.dtype) * 2 - 1
    return (1 - logits * signs).sort(dim=1, descending=True)


def _hinge(errors: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return errors.relu()
    if activation == "elu":
        return F.elu(errors) + 1
    raise ValueError(f'activation {activation!r} is unknown: use "relu" or "elu"')


def _jaccard_steps(positive: Tensor) -> Tensor:
    """How much the Jaccard loss grows when the k-th worst pixel becomes wrong too, (N, P), given which are positive.

    These are the weights g of the Lovasz extension (Berman et al., definition 2). The paper takes differences of
    1 - I/U, which cancel in float32; the same differences in closed form are 1/U for a positive pixel (I falls by one)
    and I / (U (U - 1)) for a negative one (U grows by one). Constant between two orders, so without a gradient.
    """
    # in whole numbers: exact, and a float cumsum has no deterministic form on a GPU
    found = positive.cumsum(1, dtype=torch.int32)
    total = found[:, -1:]
    union = total - found + torch.arange(1, found.shape[1] + 1, dtype=torch.int32, device=found.device)
    steps = torch.where(positive, 1, (total - found) / (union - 1).clamp(min=1)) / union
    # nothing to find: the loss is 1 from the first wrong pixel on
    steps[:, :1] += total == 0
    return steps


LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "dice": dice,
    "bce_dice": bce_dice,
    "focal": focal,
    "lovasz": lovasz_hinge,
    "lovasz_elu": partial(lovasz_hinge, activation="elu"),
    "lovasz_nonempty": on_salt(lovasz_hinge),
    "lovasz_nonempty_elu": on_salt(partial(lovasz_hinge, activation="elu")),
    "symmetric_lovasz": symmetric_lovasz_hinge,
    "symmetric_lovasz_elu": partial(symmetric_lovasz_hinge, activation="elu"),
    "symmetric_lovasz_nonempty": on_salt(symmetric_lovasz_hinge),
    "symmetric_lovasz_nonempty_elu": on_salt(partial(symmetric_lovasz_hinge, activation="elu")),
}

SOFT = ("bce", "dice", "bce_dice", "focal")  # those that read soft targets as they are


@dataclass
class Loss:
    """A weighted sum of LOSSES in the shape that a fastai Learner expects of a loss function.

    Called with logits and targets (N, H, W) it gives a float32 scalar, or (N,) while `reduction` is "none", which
    fastai sets for `get_preds(with_loss=True)`.
    """

    terms: tuple[tuple[float, str], ...]
    reduction: str = "mean"

    @property
    def name(self) -> str:
        return " + ".join(name if weight == 1 else f"{weight:g}*{name}" for weight, name in self.terms)

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        losses = (weight * LOSSES[name](pred, target, reduction=self.reduction) for weight, name in self.terms)
        return torch.stack(list(losses)).sum(0)

    def activation(self, logits: Tensor) -> Tensor:
        """Logits -> probabilities."""
        return logits.sigmoid()

    def decodes(self, prob: Tensor) -> Tensor:
        """Probabilities -> masks: fastai decodes what `activation` returned, not the logits."""
        return prob > 0.5


def mix(text: str) -> Loss:
    """The loss that a recipe names, such as "lovasz", "bce + dice" or "0.1*bce + 0.9*lovasz".

    Raises InputError for an unknown name, listing near ones, and for a weight that is not a positive number.
    """
    return Loss(tuple(_term(term.strip(), text) for term in text.split("+")))


def _term(term: str, text: str) -> tuple[float, str]:
    match = re.fullmatch(r"(?:([^*\s]+)\s*\*\s*)?(\w+)", term)
    if not match:
        raise InputError(f'loss "{text}": cannot read "{term}"; write it like "0.1*bce + 0.9*lovasz"')
    number, name = match.groups(default="1")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise InputError(f'loss "{text}": weight {number} of {name} must be a positive number')
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, cutoff=0.5) or sorted(LOSSES)
        raise InputError(f'loss "{text}": no loss is called "{name}"; did you mean {" or ".join(near)}?')
    return weight, name

"""Optimisers by name: torch's own in fastai's wrapper, any of them with its gradients normalised layer by layer.

To add one: a line in OPTIMISERS and one in MOMENTUM.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fastai.optimizer import OptimWrapper

from kit.errors import InputError
from kit.recipe import Recipe, Stage

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": partial(torch.optim.RMSprop, alpha=0.9, eps=1e-7),  # Keras's, which the published systems used
}
# where the schedule does not move it; Adam's is its first beta; 0 is never moved
MOMENTUM = {"adam": 0.9, "adamw": 0.9, "sgd": 0.9, "rmsprop": 0.0}
FUSED = ("adam", "adamw")
TINY = 1e-12  # a gradient of nought stays nought


def make(groups: list[list[torch.nn.Parameter]], lr: float, *, stage: Stage) -> OptimWrapper:
    """The stage's optimiser over groups of parameters, which may be empty; `partial(make, stage=...)` is an opt_func.

    With `normalise` it is not the fused one: that one undoes float16's loss scale itself, after the gradients were
    divided by norms that held the scale.
    """
    options: dict[str, Any] = {"weight_decay": stage.weight_decay}
    if stage.optimiser in FUSED:
        options["fused"] = not stage.normalise
    optimiser = OptimWrapper(groups, opt=OPTIMISERS[stage.optimiser], lr=lr, **options)
    optimiser.set_hypers(mom=MOMENTUM[stage.optimiser])
    if stage.normalise:
        optimiser.opt.register_step_pre_hook(_normalise)
    return optimiser


def _normalise(optimiser: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Divide each parameter tensor's gradient by its L2 norm (Yu et al., arXiv 1707.04822, algorithm 1)."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.div_(parameter.grad.norm().clamp_min(TINY))


def is_pretrained(recipe: Recipe) -> bool:
    """Whether the encoder starts from knowledge: only then is it frozen at first and trained more slowly."""
    return recipe.net.pretrained or bool(recipe.net.weights)


def lr_factors(recipe: Recipe, stage: Stage) -> list[float]:
    """Factors on the learning rate for (first half of the encoder, second half, decoder)."""
    return [stage.encoder_lr, stage.encoder_lr**0.5, 1.0] if is_pretrained(recipe) else [1.0, 1.0, 1.0]


def check(stage: Stage, where: str) -> None:
    """Raises InputError for an unknown optimiser and values it cannot have; `where` is the stage's key, "stages.0"."""
    if stage.optimiser not in OPTIMISERS:
        raise InputError(f"unknown optimiser {stage.optimiser!r}; there are: {', '.join(OPTIMISERS)}")
    for key in ("encoder_lr", "weight_decay"):
        if not 0 <= getattr(stage, key) < math.inf:
            raise InputError(f"recipe key {where}.{key} must be 0 or more, not {getattr(stage, key)}")

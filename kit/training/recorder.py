"""fastai's Recorder, but losses stay on the device until a fit ends: its own copies each of them, and waits.

Nor are they gathered where several processes train together: a loss is that of all of them already (kit.training.team).
"""

import torch
from fastai.learner import AvgLoss, AvgSmoothLoss, Learner, Recorder
from fastai.torch_core import find_bs


class DeviceRecorder(Recorder):
    """Records what fastai's does; `losses` are tensors on the host when the fit has ended."""

    name = "recorder"
    losses: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.smooth_loss = DeviceLoss(), DeviceSmoothLoss()

    def after_fit(self) -> None:
        if self.losses:
            self.losses = list(torch.stack(self.losses).cpu())


class DeviceLoss(AvgLoss):
    """The mean loss of the validation tiles; its `value` is a tensor on the device, None where there are no tiles."""

    total: torch.Tensor | float

    def accumulate(self, learn: Learner) -> None:
        tiles = find_bs(learn.yb)
        self.total = self.total + learn.to_detach(learn.loss.mean(), cpu=False, gather=False) * tiles
        self.count += tiles


class DeviceSmoothLoss(AvgSmoothLoss):
    """The loss of the training batches, smoothed; its `value` is a tensor on the device."""

    val: torch.Tensor

    def accumulate(self, learn: Learner) -> None:
        loss = learn.to_detach(learn.loss.mean(), cpu=False, gather=False)
        self.val = torch.lerp(loss, self.val if self.count else torch.zeros_like(loss), self.beta)
        self.count += 1

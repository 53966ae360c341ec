"""The peer: the plain U-Net that a user of segmentation_models.pytorch writes for this competition.

resnet18 with scSE in the decoder from random weights, albumentations, AdamW under one cycle, BCE and then the Lovasz
hinge, bfloat16 autocast and channels_last, the best epoch kept, mirrored tiles averaged in at the end. Nothing of the
kit's nets or training is in it, but for the question whether this machine has bfloat16.
"""

import os
import time
from dataclasses import dataclass

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from albumentations.pytorch import ToTensorV2
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kit.nets.model import best_precision
from kit.scoring.metric import mean_average_precision

TILE, SIZE = 101, 128
BS, LR = 16, 1e-3
LOVASZ_FROM = 0.5  # of the time
TICKS = 1000  # of the schedule, which follows the clock
TOP = (SIZE - TILE) // 2  # rows and columns before the tile


@dataclass(frozen=True)
class Trained:
    """Probabilities of the validation tiles, (N, 101, 101) float16, and what they cost."""

    prob: np.ndarray
    seconds: float
    tiles: int  # trained on, counted each time

    @property
    def rate(self) -> float:
        return self.tiles / self.seconds


class SaltDataset(Dataset):
    """Tiles with their masks, as tensors (1, SIZE, SIZE) float32."""

    def __init__(self, images: np.ndarray, masks: np.ndarray, augment: bool):
        self.images, self.masks = images, masks.astype(np.uint8)
        self.transform = A.Compose([*(augmentations() if augment else []), *preprocessing()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        item = self.transform(image=np.asarray(self.images[index]), mask=self.masks[index])
        return item["image"], item["mask"][None].float()


def augmentations() -> list[A.BasicTransform]:
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(0.9, 1.1),
            translate_percent=(-0.06, 0.06),
            rotate=(-10, 10),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.5,
        ),
        A.RandomBrightnessContrast(p=0.3),
    ]


def preprocessing() -> list[A.BasicTransform]:
    return [
        A.PadIfNeeded(SIZE, SIZE, border_mode=cv2.BORDER_REFLECT_101),
        A.Normalize(mean=(0.5,), std=(0.25,)),
        ToTensorV2(),
    ]


def train(images: np.ndarray, masks: np.ndarray, is_valid: np.ndarray, seconds: float, seed: int) -> Trained:
    """Train for `seconds`, validation after each epoch included, and predict the validation tiles.

    images (N, 101, 101) uint8, masks (N, 101, 101) bool, is_valid (N,) bool.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = smp.Unet("resnet18", encoder_weights=None, decoder_attention_type="scse", in_channels=1, classes=1)
    model = model.to(device, memory_format=torch.channels_last)
    train_loader = loader(images[~is_valid], masks[~is_valid], device, train=True)
    valid_loader = loader(images[is_valid], masks[is_valid], device, train=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=TICKS)
    bce, lovasz = nn.BCEWithLogitsLoss(), smp.losses.LovaszLoss("binary", per_image=True)
    best, weights, tiles, started = -1.0, {}, 0, time.monotonic()
    while time.monotonic() - started < seconds:
        model.train()
        for image, mask in train_loader:
            progress = (time.monotonic() - started) / seconds
            if progress >= 1:
                break
            logits = forward(model, image.to(device))
            loss = (bce if progress < LOVASZ_FROM else lovasz)(logits, mask.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            while scheduler.last_epoch < int(progress * TICKS):
                scheduler.step()
            tiles += len(image)
        score = mean_average_precision(predict(model, valid_loader, device, tta=False) > 0.5, masks[is_valid])
        print(f"peer: {time.monotonic() - started:6.0f} s  loss {loss.item():.4f}  score {score:.4f}", flush=True)
        if score > best:
            best, weights = score, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    spent = time.monotonic() - started
    model.load_state_dict(weights)
    return Trained(predict(model, valid_loader, device, tta=True).astype(np.float16), spent, tiles)


def loader(images: np.ndarray, masks: np.ndarray, device: torch.device, train: bool) -> DataLoader:
    """On a CPU in the process itself: there loader processes take from the net what they give."""
    workers = 0 if device.type == "cpu" else 8
    dataset = SaltDataset(images, masks, augment=train)
    return DataLoader(
        dataset,
        BS,
        shuffle=train,
        drop_last=train,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=workers > 0,
    )


def forward(model: nn.Module, image: Tensor) -> Tensor:
    """Logits (B, 1, SIZE, SIZE) float32."""
    fast = best_precision(image.device) is torch.bfloat16
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=fast):
        return model(image).float()


@torch.inference_mode()
def predict(model: nn.Module, tiles: DataLoader, device: torch.device, tta: bool) -> np.ndarray:
    """Probabilities (N, 101, 101) float32, the padding cut off."""
    model.eval()
    parts = []
    for image, _ in tiles:
        image = image.to(device)
        prob = forward(model, image).sigmoid()
        if tta:
            prob = (prob + forward(model, image.flip(-1)).sigmoid().flip(-1)) / 2
        parts.append(prob[:, 0, TOP : TOP + TILE, TOP : TOP + TILE].cpu().numpy())
    return np.concatenate(parts)

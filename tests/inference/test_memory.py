"""A prediction holds one chunk of tiles, however many there are."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from kit.data.tiles import Tiles
from kit.inference import predict as predicting
from kit.recipe import Recipe
from kit.runs import Run, write_bytes, write_json

CHUNK = 100


class Net(nn.Module):
    """Logits are the grey levels."""

    needs_depth, precision = False, None

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(128.0))

    def forward(self, tiles):
        return (tiles.float() - self.shift) / 20


def dark_tiles(n: int) -> Tiles:
    """One to train on and n to test on."""
    images, depth = np.zeros((1, 101, 101), np.uint8), np.zeros(1, np.float32)
    ids = np.array([f"{number:010x}" for number in range(n + 1)])
    test_images, test_depth = np.full((n, 101, 101), 40, np.uint8), np.zeros(n, np.float32)
    return Tiles(ids[:1], ids[1:], images, test_images, images.astype(bool), depth, test_depth, f"dark-{n}")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Two finished folds of that net."""
    entry = {"weights": "last", "candidates": {"last": None}}
    write_json(tmp_path / "scores.json", {"folds": {"0": entry, "1": entry}})
    for fold in (0, 1):
        write_bytes(tmp_path / f"fold_{fold}" / "last.safetensors", b"stands for weights")
    monkeypatch.setattr(predicting, "load_nets", lambda *args: lambda: iter([(1.0, Net())]))
    monkeypatch.setattr(predicting, "CHUNK", CHUNK)
    return Run(tmp_path)


def peak(run: Run, n: int) -> int:
    """The most bytes of numpy's arrays, and of Python, that predicting n tiles holds at once."""
    tiles = dark_tiles(n)
    tracemalloc.start()
    try:
        predicting.predict(run, Recipe(tta="none"), tiles)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_tiles(run):
    predicting.predict(run, Recipe(tta="none"), dark_tiles(CHUNK))  # what is imported and made once
    few, many = peak(run, 5 * CHUNK), peak(run, 20 * CHUNK)
    chunk = CHUNK * 101 * 101 * 4  # bytes, float32
    assert few > chunk  # it is seen
    assert many - few < chunk / 4  # ids and emptiness: 15 further chunks would be 15 times as much as one
    assert np.load(run / "test.npy", mmap_mode="r").shape == (20 * CHUNK, 101, 101)

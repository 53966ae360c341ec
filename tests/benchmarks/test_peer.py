"""The comparison with the peer: the right pixels, the right interval, and no training where predictions are."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from kit.data import demo, tiles
from kit.errors import InputError
from kit.scoring.metric import mean_average_precision
from tests.benchmarks import peer, smp_unet, trained
from tests.small import TINY, easy_tiles


class Itself(nn.Module):
    """Gives its input back, so that a prediction tells which pixels the net saw, and where."""

    def forward(self, x):
        return x


@pytest.mark.parametrize("tta", [False, True])
def test_the_peer_predicts_the_tile_and_not_its_padding(tta, monkeypatch):
    monkeypatch.setattr(smp_unet, "best_precision", lambda device: None)
    data = easy_tiles(20)
    loader = smp_unet.loader(data.train_images, data.masks, torch.device("cpu"), train=False)
    prob = smp_unet.predict(Itself(), loader, torch.device("cpu"), tta)
    expected = 1 / (1 + np.exp(-(data.train_images / 255 - 0.5) / 0.25))
    np.testing.assert_allclose(prob, expected, atol=1e-5)


def test_the_peer_sees_masks_where_the_salt_is():
    data = easy_tiles(20)
    item, mask = smp_unet.SaltDataset(data.train_images, data.masks, augment=False)[3]
    assert item.shape == mask.shape == (1, 128, 128)
    np.testing.assert_array_equal(mask[0, 13:114, 13:114].numpy(), data.masks[3])
    torch.manual_seed(0)
    moved = [smp_unet.SaltDataset(data.train_images, data.masks, augment=True)[3] for _ in range(20)]
    # tiles of easy_tiles are brighter where there is salt: image and mask must have moved together
    assert all((image[mask > 0.5].mean() - image[mask < 0.5].mean()) > 0.5 for image, mask in moved)
    assert len({mask.numpy().tobytes() for _, mask in moved}) > 5


def test_the_interval_of_the_gap_is_that_of_paired_differences():
    generator = np.random.default_rng(0)
    ground = generator.random(2000)  # shared difficulty, which pairing takes out
    own, other = ground + 0.05 + generator.normal(0, 0.1, 2000), ground
    gap, low, high = (float(number) for number in pd.Series(peer.gap(own, other)).str.findall(r"[+-]\d\.\d+")[0])
    difference = own - other
    half = 1.96 * difference.std() / np.sqrt(2000)
    assert gap == pytest.approx(difference.mean(), abs=1e-4)
    assert low == pytest.approx(difference.mean() - half, abs=5e-4)
    assert high == pytest.approx(difference.mean() + half, abs=5e-4)


@pytest.mark.slow
def test_a_comparison_is_repeated_without_training(tmp_path, monkeypatch):
    demo.write(tmp_path / "data", n_train=40, n_test=4, seed=0)
    data = tiles.load(tmp_path / "data", progress=False)
    arguments = data, tmp_path / "data", str(TINY), 0.2, 0, 0, tmp_path / "out"
    table = peer.compare(*arguments)
    prob = np.load(tmp_path / "out" / "peer.npy")
    ids = pd.read_csv(tmp_path / "out" / "peer_ids.csv", dtype=str)["id"]
    masks = data.masks[[list(data.train_ids).index(name) for name in ids]]
    assert prob.shape == masks.shape == (10, 101, 101)
    assert f"| segmentation_models.pytorch | {mean_average_precision(prob > 0.5, masks):.4f} |" in table
    assert "| tiny |" in table
    monkeypatch.setattr(peer, "ProcessPoolExecutor", None)
    monkeypatch.setattr(trained, "subprocess", None)
    assert peer.compare(*arguments) == table
    (tmp_path / "out" / "peer_ids.csv").write_text("id\nother\n")
    with pytest.raises(InputError, match="another fold"):
        peer.compare(*arguments)

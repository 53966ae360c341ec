"""The exported program, in a process without the kit, beside what the run itself predicts."""

import subprocess
import sys

import numpy as np
import pytest

from kit.inference.export import export
from kit.inference.predict import predict
from kit.runs import Run
from kit.training import learner
from kit.training.fold import train_folds
from tests.small import easy_tiles, tiny_recipe

TILES = easy_tiles(24, 9)
ALONE = """
import sys
import numpy as np
import torch
program = torch.export.load(sys.argv[1]).module()
tiles = torch.from_numpy(np.load("tiles.npy"))
depth = [torch.from_numpy(np.load("depth.npy"))]
with torch.no_grad():
    parts = [program(tiles[rows], *(each[rows] for each in depth)) for rows in (slice(0, 8), slice(8, 9))]
np.save("prob.npy", torch.cat([prob for prob, empty in parts]))
np.save("empty.npy", torch.cat([empty for prob, empty in parts]))
assert "kit" not in sys.modules
"""


@pytest.mark.slow
def test_it_says_what_the_run_predicts_without_the_kit(tmp_path):
    recipe = tiny_recipe(
        *("data.folds=2", "data.channels=grey+depth", "precision=bfloat16"),
        *("net.decoder=salt", "salt.width=8", "salt.empty=0.3", "salt.gating=true"),
        *("stages.2.schedule=cosine", "stages.2.cycles=2", "stages.2.snapshots=2"),
    )
    run = Run(tmp_path / "run")
    train_folds(run, recipe, TILES, learner.make_folds(recipe, TILES), [0, 1])
    predict(run, recipe, TILES, weights="snapshots")
    path = export(run, recipe, weights="snapshots")
    np.save(tmp_path / "tiles.npy", TILES.test_images)
    np.save(tmp_path / "depth.npy", TILES.relative_depth("test"))
    subprocess.run([sys.executable, "-c", ALONE, str(path)], cwd=tmp_path, check=True)
    for exported, own in (("prob.npy", "test.npy"), ("empty.npy", "test_empty.npy")):
        # 1e-4, and what the run's file loses as float16
        found, expected = np.load(tmp_path / exported), np.load(run / own).astype(np.float32)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=2**-10)
    assert np.ptp(expected) > 1e-3

"""The comparison of encoders: intervals by formula, the same tiles for all, and no training of what is there."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kit.data import demo, tiles
from kit.errors import InputError
from kit.runs import read_json, write_json, write_text
from kit.scoring.metric import mean_average_precision
from tests.benchmarks import encoders, trained
from tests.small import TINY

NAMES = ("test_resnet.r160_in1k", "test_efficientnet.r160_in1k")


def test_the_gap_is_paired_and_the_interval_of_the_score_is_not():
    generator = np.random.default_rng(0)
    ground = generator.random(2000)  # shared difficulty
    scores = {"light": ground + generator.normal(0, 0.1, 2000) - 0.05, "best": ground}
    cost = {"parameters": 5, "steps": 3, "seconds": 2.0, "tiles_per_second": 10.0}
    best, light = encoders.summary({"light": cost, "best": cost}, scores).to_dict("records")
    assert (best["encoder"], light["encoder"], light["parameters"]) == ("best", "light", 5)
    assert (best["gap"], best["gap_low"], best["gap_high"]) == (0, 0, 0)

    def bounds(values):
        half = 1.96 * values.std() / np.sqrt(len(values))
        return pytest.approx([values.mean(), values.mean() - half, values.mean() + half], abs=1e-3)

    assert [light["score"], light["score_low"], light["score_high"]] == bounds(scores["light"])
    assert [light["gap"], light["gap_low"], light["gap_high"]] == bounds(scores["light"] - scores["best"])


def test_a_folder_with_other_settings_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "subprocess", None)
    demo.write(tmp_path / "data", n_train=12, n_test=4, seed=0)
    data = tiles.load(tmp_path / "data", progress=False)
    write_json(tmp_path / "out" / "settings.json", {"minutes": 10})
    write_text(tmp_path / "out" / "runs" / "resnet18" / "recipe.toml", "")
    with pytest.raises(InputError, match="begun with another minutes, fold"):
        encoders.compare(data, tmp_path / "data", str(TINY), 5, 0, 0, None, tmp_path / "out")


def test_a_key_that_recipes_got_since_then_is_no_other_setting(tmp_path):
    write_text(tmp_path / "runs" / "resnet18" / "recipe.toml", "")
    today = {"recipe": encoders.recipes.dumps(encoders.recipes.load(str(TINY)))}
    without = "".join(line for line in today["recipe"].splitlines(True) if not line.startswith("micro_bs"))
    assert len(without) < len(today["recipe"])
    write_json(tmp_path / "settings.json", {"recipe": without})
    encoders._claim(tmp_path, today)
    assert read_json(tmp_path / "settings.json") == today
    write_json(tmp_path / "settings.json", {"recipe": without.replace("folds = 4", "folds = 5")})
    with pytest.raises(InputError, match="begun with another recipe"):
        encoders._claim(tmp_path, today)


def test_all_six_are_there_and_the_decoder_is_the_same():
    named = {"resnet18", "resnet34", "seresnext50_32x4d", "legacy_xception", "efficientnet_b0", "convnext_tiny"}
    assert set(encoders.ENCODERS) == named
    assert encoders.recipes.load(str(encoders.RECIPE)).net.decoder == "salt"


@pytest.mark.slow
def test_a_comparison_is_gone_on_with_and_repeated_without_training(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "ENCODERS", NAMES[:1])
    demo.write(tmp_path / "data", n_train=40, n_test=4, seed=0)
    data = tiles.load(tmp_path / "data", progress=False)
    out = tmp_path / "out"
    arguments = data, tmp_path / "data", str(TINY), 0.2, 0, 0, 32, out
    encoders.compare(*arguments)
    first = out / "runs" / NAMES[0] / "fold_0" / "valid.npy"
    made = first.stat().st_mtime_ns
    monkeypatch.setattr(encoders, "ENCODERS", NAMES)
    text = encoders.compare(*arguments)
    assert first.stat().st_mtime_ns == made
    assert text == (out / "encoders.md").read_text()
    table = pd.read_csv(out / "encoders.csv").set_index("encoder")
    assert set(table.index) == set(NAMES)
    for name, row in table.iterrows():
        prob = np.load(out / "runs" / name / "fold_0" / "valid.npy")
        ids = pd.read_csv(out / "runs" / name / "fold_0" / "valid_ids.csv", dtype=str)["id"]
        masks = data.masks[[list(data.train_ids).index(one) for one in ids]]
        assert len(pd.read_csv(out / "runs" / name / "folds.csv")) == 32
        assert row["score"] == pytest.approx(mean_average_precision(prob > 0.5, masks), abs=1e-5)
        assert row["steps"] >= 3
        assert f"| {name} | {row['score']:.3f} " in text
    with Image.open(out / "encoders.png") as picture:
        assert picture.format == "PNG"
    monkeypatch.setattr(trained, "subprocess", None)
    assert encoders.compare(*arguments) == text

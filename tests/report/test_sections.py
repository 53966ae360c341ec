"""Summary, mosaics and submissions of the report: what stands in them, and when they are left out."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kit import recipe
from kit.data import placement
from kit.errors import InputError
from kit.leaderboard.ledger import Ledger
from kit.report import absent, mosaic_section, sections, submission_section, summary_section
from kit.runs import Run, write_json
from kit.scoring import mosaic_rules
from tests.report.planted import planted_run, planted_tiles

TILES = planted_tiles()


@pytest.fixture
def run(tmp_path):
    return planted_run(tmp_path / "runs" / "a", TILES)


def table(section, name) -> pd.DataFrame:
    return next(part.frame for part in section.parts if part.name == name)


def test_the_summary_says_scores_recipe_command_and_environment(run):
    section = summary_section.section([run])
    scores = table(section, "scores")
    assert scores["score"].tolist() == [0.9, 0.8, 0.85]
    assert scores["fold"].tolist() == ["0", "1", "mean, deviation 0.0500"]
    assert "Threshold" in section.parts[0].note
    made = table(section, "made").set_index("")["a"]
    assert made[["command", "numpy"]].tolist() == ["python scripts/train.py --recipe demo", "2"]
    differ = table(section, "recipe").set_index("key")
    assert list(differ.columns) == ["baseline", "demo"]  # the recipe's parent, and the run's own
    assert differ.loc["net.stem"].tolist() == ["own", "no-pool"]


def test_a_damaged_environment_is_named_and_an_odd_command_shown(run):
    (run / "command.txt").write_bytes(b"python scripts/train.py --recipe \xff")
    made = table(summary_section.section([run]), "made").set_index("")["a"]
    assert made["command"] == "python scripts/train.py --recipe \ufffd"
    write_json(run / "environment.json", {"fingerprint": TILES.fingerprint, "versions": ["numpy 2"]})
    with pytest.raises(InputError, match=r"environment.json is not what train.py wrote \(versions\): restore it"):
        summary_section.section([run])


def test_differences_are_all_and_only_the_keys_that_differ():
    base = recipe.load("baseline")
    assert summary_section.differences(base, base).empty
    other = recipe.load("baseline", ["data.size=96", "stages.0.lr=0.5"])
    rows = summary_section.differences(base, other).to_numpy().tolist()
    assert sorted(rows) == [["data.size", "128", "96"], ["stages.0.lr", "0.001", "0.5"]]


def test_an_ensemble_has_its_score(run):
    write_json(run / "scores.json", {"folds": {}, "mean": 0.77})
    assert table(summary_section.section([run]), "scores")[["fold", "score"]].to_numpy().tolist() == [["all", 0.77]]


def test_submissions_are_told_from_the_ledger_and_left_out_without_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert submission_section.section().parts == []
    ledger = Ledger()
    ledger.add("kit-1", "sent", run="a", oof=0.8)
    (only,) = submission_section.section().parts  # nothing is scored yet: no picture
    assert only.frame[["state", "out of fold", "what"]].to_numpy().tolist() == [["sent", 0.8, "a"]]
    ledger.add("kit-1", "complete", public=0.81, private=0.83)
    figure, told = submission_section.section().parts
    assert figure.name == "foretold"
    assert told.frame[["public", "private"]].to_numpy().tolist() == [[0.81, 0.83]]


def test_mosaics_show_truth_prediction_and_where_rules_speak(run):
    ids = np.r_[TILES.train_ids[:12], TILES.test_ids[:4]]
    places = pd.DataFrame({"id": ids, "mosaic": 0, "row": np.arange(16) % 8, "col": np.arange(16) // 8})
    (plate,) = mosaic_section.section(TILES, places, run).parts
    (axes,) = plate.figure.axes
    marks = {line.get_label(): len(line.get_xdata()) for line in axes.lines}
    claims = mosaic_rules.claims(places, TILES.train_ids, TILES.masks)
    expected = {f"rule {rule}": targets.nunique() for rule, targets in claims.groupby("rule")["target"]}
    assert marks == {"known mask": 12, "predicted by a": 12, **expected}
    assert expected
    (run / "oof.npy").unlink()
    (plate,) = mosaic_section.section(TILES, places, run).parts
    assert "predicted by a" not in {line.get_label() for line in plate.figure.axes[0].lines}
    assert mosaic_section.section(TILES, None, run).parts == []
    assert mosaic_section.section(TILES, places.head(5), None).parts == []  # too small a mosaic


def test_what_is_left_out_is_said_with_what_brings_it(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    here = Run(Path("runs") / "a")

    def missing():
        (told,) = absent.tables(here, TILES, Path("data")) or [None]
        return dict(told.frame.to_numpy()) if told else {}

    assert missing() == {
        "learning-rate finder": "python scripts/train.py --run runs/a --resume --lr-find",
        "agreement between folds": "python scripts/predict.py runs/a, two folds being trained",
        "mosaics": "python scripts/mosaic.py --data data",
        "submissions": "python scripts/submit.py runs/a",
    }
    (run / "lr_find.csv").touch()
    for fold in (0, 1):
        write_json(run.fold(fold) / "test.json", {"data": TILES.fingerprint})
        (run.fold(fold) / "test.npy").touch()
    (tmp_path / "data").mkdir()
    placement.write(Path("data"), pd.DataFrame(columns=placement.COLUMNS))
    Ledger().add("kit-1", "sent", run="a", oof=0.8)
    assert missing() == {}
    (run / "oof.npy").unlink()
    assert set(missing().values()) == {"python scripts/train.py --run runs/a --resume"}
    write_json(run / "environment.json", {"fingerprint": TILES.fingerprint, "folds": [None]})
    assert set(missing().values()) == {"a run on folds: python scripts/train.py --recipe runs/a/recipe.toml"}


def test_a_run_without_out_of_fold_predictions_says_so(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (run / "oof.npy").unlink()
    made = list(itertools.islice(sections.of_runs([run], TILES, tmp_path), 3))
    assert [section.name for section in made if section.parts] == ["summary"]
    assert "out-of-fold predictions" in table(made[0], "absent")["part"].iloc[0]
    assert capsys.readouterr().out.count("left out: result and tiles") == 1


def test_two_runs_of_one_name_are_refused_before_a_word(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "load", lambda data: TILES)
    with pytest.raises(InputError, match="runs a, a have one name"):
        sections.write([run, run], tmp_path)
    write_json(run / "environment.json", {"fingerprint": "other"})
    with pytest.raises(InputError, match="trained on other tiles"):
        sections.write([run], tmp_path)
    assert not (run / "report").exists()

"""From a run to labels to a run that is trained on them, with the scripts as a user calls them."""

import numpy as np
import pytest

from kit.runs import Run, read_json, write_probabilities
from tests.inference.labelled import MIX, TRAIN, answers, labels_of
from tests.processes import run as run_script
from tests.processes import succeed


@pytest.mark.slow
def test_from_a_run_to_labels_to_a_run(home, demo_data):
    """A net of two epochs is sure of nothing, so the truth takes the place of its predictions."""
    where = ("--data", str(demo_data))
    succeed(*TRAIN, *where, "--fold", "0,1", "--run", "a", cwd=home)
    code, _, err = run_script("pseudo_label.py", "a", cwd=home)
    assert (code, err.count("\n"), "predict.py a" in err) == (2, 1, True)
    succeed("predict.py", "a", cwd=home)
    ids, truth = answers(demo_data)
    for fold in (0, 1):
        write_probabilities(home / f"runs/a/fold_{fold}/test.npy", truth.shape, [truth])
    out = succeed("pseudo_label.py", "a", cwd=home)
    assert out.count("audit: its models saw 30 training tiles, none of the 10 validation tiles") == 2
    assert "--set pseudo_run=a" in out
    table, masks, _ = labels_of(Run(home / "runs/a"), "fold_1")
    assert len(table) > 5
    np.testing.assert_array_equal(masks, truth[[ids.index(name) for name in table.index]])

    out = succeed(*TRAIN, *MIX, *where, "--set", "pseudo_run=latest", "--fold", "1", "--run", "b", cwd=home)
    assert f"30 tiles and {len(table)} pseudo-labelled ones to train on" in out
    assert 'pseudo_run = "runs/a"' in (home / "runs/b/recipe.toml").read_text()
    assert read_json(home / "runs/b/fold_1/pseudo.json")["models"] == ["runs/a/fold_1"]
    for settings, words in (
        (["pseudo_run=a", "seed=5"], "leak: "),
        (["pseudo_run=nowhere"], "no run 'nowhere'"),
        (["pseudo_run=a", "pseudo_half=first"], "runs/a/pseudo/fold_3 has no labels"),
    ):
        given = [part for setting in settings for part in ("--set", setting)]
        code, out, err = run_script(*TRAIN, *MIX, *where, *given, "--fold", "1,3", "--run", "c", cwd=home)
        assert (code, err.splitlines()[-1].startswith(f"error: {words}")) == (2, True)
        assert not (home / "runs/c").exists()

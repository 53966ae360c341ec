"""The way of a user, script by script: download, train, predict, tune, submit, score, and not twice."""

import pytest

from kit.data import demo
from tests.data import small
from tests.leaderboard import quick
from tests.small import TINY

SLUG = "tgs-salt-identification-challenge"


@pytest.mark.slow
def test_from_download_to_score(kaggle, tmp_path):
    demo.write(tmp_path / "made", n_train=40, n_test=12, seed=3)
    names = ("train.csv", "depths.csv", "sample_submission.csv", "train.zip", "test.zip")
    kaggle.competition.data = {name: (tmp_path / "made" / name).read_bytes() for name in names}
    kaggle.files[f"{SLUG}.zip"] = small.zipped(kaggle.competition.data)

    def succeed(*command):
        code, out, err = quick.run(*command, cwd=tmp_path)
        assert code == 0, err
        return out

    assert "40 training tiles" in succeed("prepare.py", "--download")
    succeed("train.py", "--recipe", TINY, "--run", "first", "--fold", "0,1")
    succeed("predict.py", "first")
    succeed("tune_threshold.py", "first")
    assert "send it: python scripts/submit.py first --wait" in succeed("submit.py", "first", "--dry-run")
    assert "complete: public 0.81234, private 0.83456" in succeed("submit.py", "first", "-m", "first try", "--wait")
    code, _, err = quick.run("submit.py", "first", cwd=tmp_path)
    assert (code, "public 0.81234, private 0.83456" in err) == (2, True)
    assert "  first" in succeed("submit.py", "--status")
    assert len(kaggle.competition.submissions) == 1

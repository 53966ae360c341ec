"""What a user of scripts/prepare.py sees, from a server of our own to tiles in the cache."""

import json
import re

import pytest

from tests.data import small
from tests.leaderboard import quick
from tests.leaderboard.server import KEY

SLUG = "tgs-salt-identification-challenge"
RULES = f"https://www.kaggle.com/c/{SLUG}/rules"


@pytest.fixture
def whole(kaggle):
    """The competition as Kaggle serves it: one zip with the tables and with zips of the images."""
    kaggle.competition.data = small.as_zips(small.files() | more_tiles())
    kaggle.files[f"{SLUG}.zip"] = small.zipped(kaggle.competition.data)
    return kaggle


def more_tiles():
    """Enough training tiles for five folds."""
    content, rows = {}, []
    for number in range(8):
        name = f"more{number}"
        rows.append((name, "1 10"))
        content[f"train/images/{name}.png"] = small.png(small.truth(number + 1)["train"][1])
    lines = small.files()["train.csv"] + small.table(("id", "rle_mask"), rows).split(b"\n", 1)[1]
    return content | {"train.csv": lines}


def prepare(folder, *arguments, **variables):
    return quick.run("prepare.py", *arguments, cwd=folder, **variables)


@pytest.mark.slow
def test_from_nothing_to_cached_tiles(whole, tmp_path):
    code, out, err = prepare(tmp_path, "--download")
    assert code == 0, err
    assert "downloading 5 files" in out
    assert "12 training tiles, 11 with salt; 3 test tiles" in out
    assert "5 folds by coverage, of 2 to 3 tiles" in out
    assert out.splitlines()[-1] == "next: python scripts/train.py --arch resnet34"
    assert {"manifest.json", "mosaic.csv"} <= {path.name for path in (tmp_path / "data" / ".kit").iterdir()}
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".download.lock", ".kit", f"{SLUG}.zip"]
    code, out, _ = prepare(tmp_path, "--download")
    assert (code, "is there already, and sound" in out) == (0, True)
    assert whole.count("DownloadDataFiles") == 1


@pytest.mark.slow
def test_a_cut_is_gone_on_with_by_the_next_command(whole, tmp_path):
    whole.plant("GET", keep=100_000)
    whole.plant("DownloadDataFiles", status=503, times=99, skip=1)
    code, _, err = prepare(tmp_path, "--download")
    assert (code, err.count("\n")) == (4, 1)
    whole.faults.clear()
    code, _, err = prepare(tmp_path, "--download")
    assert code == 0, err
    assert whole.bodies("GET")[-1]["range"] == "bytes=65536-"


def test_a_damaged_zip_is_not_kept(whole, tmp_path):
    path = tmp_path / "data" / f"{SLUG}.zip"
    path.parent.mkdir()
    sound = whole.files[f"{SLUG}.zip"]
    path.write_bytes(sound[:-10])  # from an earlier, torn download by hand
    assert prepare(tmp_path, "--download")[0] == 0
    assert path.read_bytes() == sound
    path.unlink()
    middle = sound.index(b"train.zip") + 500
    whole.files[f"{SLUG}.zip"] = sound[:middle] + b"\0\0\0\0" + sound[middle + 4 :]
    code, _, err = prepare(tmp_path, "--download")
    assert code == 4
    assert "what came is not the competition's zip" in err
    assert not path.exists()
    whole.files[f"{SLUG}.zip"] = b"<html>we are down</html>"
    assert prepare(tmp_path, "--download")[0] == 4
    assert not path.exists()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ({"status": 401}, 3, "https://www.kaggle.com/settings/api"),
        ({"status": 403}, 3, RULES),
        ({"status": 404}, 3, RULES),
        ({"status": 429, "headers": {"Retry-After": "900"}}, 4, "Kaggle asks to wait 900 s"),
        pytest.param({"hang": 30}, 4, "no answer from Kaggle", marks=pytest.mark.slow),
    ],
)
def test_a_no_is_one_line_with_the_address(whole, tmp_path, fault, code, words):
    whole.plant("DownloadDataFiles", **fault, times=99)
    found, _, err = prepare(tmp_path, "--download")
    assert (found, err.count("\n")) == (code, 1)
    assert words in err


def test_without_credentials(whole, tmp_path):
    code, _, err = prepare(tmp_path, "--download", KAGGLE_USERNAME=None, KAGGLE_KEY=None)
    assert (code, err.count("\n")) == (2, 1)
    assert "make a token at https://www.kaggle.com/settings/api" in err


def test_without_data(tmp_path, kaggle):
    code, _, err = prepare(tmp_path)
    assert code == 2
    assert "data is no folder" in err


def lines_of(out):
    return {re.split(r"\s{2,}", line)[1]: line for line in out.splitlines()}


def test_checks_when_all_is_well(kaggle, tmp_path):
    kaggle.competition.used_today = 2
    code, out, err = prepare(tmp_path, "--check")
    lines = lines_of(out)
    assert (code, err) == (0, "")
    assert lines["credentials"].endswith("as tester")
    assert "kaggle 2.2." in lines["client"]
    assert "GiB free at" in lines["disk"]
    assert "entered, 3 of 5 submissions left today" in lines["competition"]
    assert "18.0 of 30 GPU hours left this week" in lines["kernel quota"]
    assert len(out.splitlines()) == 6
    assert not (tmp_path / "data").exists()


def test_checks_name_the_mend(kaggle, tmp_path):
    kaggle.competition.entered = False
    kaggle.accounts.gpu_hours = (30, 30)
    key = tmp_path / "home" / ".kaggle" / "kaggle.json"
    key.write_text(json.dumps({"username": "tester", "key": KEY}))
    key.chmod(0o640)
    code, out, err = prepare(tmp_path, "--check")
    assert code == 2
    assert err == "error: to be mended, as the lines above say: credentials, competition, kernel quota\n"
    lines = lines_of(out)
    assert f"chmod 600 {key}" in lines["credentials"]
    assert "mend the credentials first" in lines["competition"]
    key.chmod(0o600)
    lines = lines_of(prepare(tmp_path, "--check")[1])
    assert RULES in lines["competition"]
    assert "all 30 GPU hours of this week are used" in lines["kernel quota"]
    assert KEY not in out + err

"""The placement table: found where it may lie, refused where it is damaged."""

import pandas as pd
import pytest

from kit.data import placement
from kit.errors import InputError

TABLE = pd.DataFrame({"id": ["0012", "a1"], "mosaic": [3, 3], "row": [0, 1], "col": [2, 2], "confidence": [0.9, 0.8]})


def test_it_is_read_where_it_lies_with_ids_as_text(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "elsewhere"))
    assert placement.read(tmp_path) is None
    for path in reversed(placement.paths(tmp_path)):  # the best place last, so that it is the one read
        path.parent.mkdir(parents=True)
        TABLE.assign(mosaic=len(path.parts)).to_csv(path, index=False)
        found = placement.read(tmp_path)
        assert list(found["id"]) == ["0012", "a1"]
        assert set(found["mosaic"]) == {len(path.parts)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "id,mosaic\na,1\n",
        "id,mosaic,row,col\na,1,0,x\n",
        "id,mosaic,row,col\na,1,,0\n",
        "id,mosaic,row,col\na,1,0,0\na,1,1,0\n",
    ],
)
def test_a_damaged_one_is_refused_in_one_line(tmp_path, monkeypatch, text):
    monkeypatch.delenv("KIT_CACHE", raising=False)
    path = placement.paths(tmp_path)[0]
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError, match=r"mosaic\.csv") as error:
        placement.read(tmp_path)
    assert "\n" not in str(error.value)


def test_it_is_read_as_it_was_written_in_place_of_an_earlier_one(tmp_path, monkeypatch):
    monkeypatch.delenv("KIT_CACHE", raising=False)
    placement.write(tmp_path, TABLE.assign(row=7))
    path = placement.write(tmp_path, TABLE)
    pd.testing.assert_frame_equal(placement.read(tmp_path), TABLE, check_dtype=False)
    assert [left.name for left in path.parent.iterdir()] == ["mosaic.csv"]


def test_a_full_disk_leaves_the_earlier_one(tmp_path, monkeypatch):
    monkeypatch.delenv("KIT_CACHE", raising=False)
    path = placement.write(tmp_path, TABLE)

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        placement.write(tmp_path, TABLE.assign(row=7))
    pd.testing.assert_frame_equal(placement.read(tmp_path), TABLE, check_dtype=False)
    assert [left.name for left in path.parent.iterdir()] == ["mosaic.csv"]


def test_the_digest_tells_places_and_not_the_order_of_rows():
    assert placement.digest(TABLE) == placement.digest(TABLE[::-1].drop(columns="confidence"))
    assert placement.digest(TABLE) != placement.digest(TABLE.assign(row=[0, 2]))

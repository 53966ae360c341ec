"""The mosaic report on sections whose places are known: what is printed, written and drawn."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from PIL import Image

from kit.data import placement
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.report import figures, mosaics
from kit.report.figures import style
from kit.runs import Run, write_json, write_probabilities, write_text
from tests.data.jigsaw import puzzle

pytestmark = pytest.mark.slow

TRUTH = puzzle(20, ((3, 5), (2, 3)), n_lone=30)
N_TRAIN = 30
MASKS = TRUTH.masks[:N_TRAIN]
NAMES = np.array([f"t{number:03}" for number in range(len(TRUTH.images))])
TILES = Tiles(
    NAMES[:N_TRAIN],
    NAMES[N_TRAIN:],
    TRUTH.images[:N_TRAIN],
    TRUTH.images[N_TRAIN:],
    MASKS,
    np.arange(N_TRAIN, dtype=np.float32),
    np.arange(len(NAMES) - N_TRAIN, dtype=np.float32),
    "made-here",
)


@pytest.fixture
def run(tmp_path) -> Run:
    """A run that is sure of salt in the upper left corner of every tile."""
    run = Run(tmp_path / "corner")
    write_json(run / "environment.json", {"fingerprint": TILES.fingerprint})
    for split, ids in (("oof", TILES.train_ids), ("test", TILES.test_ids)):
        prob = np.full((len(ids), 101, 101), 0.1)
        prob[:, :50, :50] = 0.9
        write_probabilities(run / f"{split}.npy", prob.shape, [prob])
        write_text(run / f"{split}_ids.csv", pd.DataFrame({"id": ids}).to_csv(index=False))
    return run


def test_what_is_written_is_the_truth(tmp_path, capsys):
    mosaics.put_together(tmp_path, TILES)
    table = placement.read(tmp_path)
    assert list(table.columns) == ["id", "mosaic", "row", "col", "confidence"]
    place = dict(zip(NAMES, zip(TRUTH.number, TRUTH.row, TRUTH.col, strict=True), strict=True))
    assert set(table["id"]) == {name for name, (number, _, _) in place.items() if number >= 0}
    assert [place[row.id] for row in table.itertuples()] == [
        (row.mosaic, row.row, row.col) for row in table.itertuples()
    ]
    folds = pd.read_csv(tmp_path / ".kit" / "mosaic_folds.csv", dtype={"id": str})
    assert list(folds["id"]) == list(TILES.train_ids)
    assert (folds.merge(table).groupby("mosaic")["fold"].nunique() == 1).all()
    (picture,) = (tmp_path / ".kit" / "mosaics").iterdir()  # the section of 6 is too small
    with Image.open(picture) as drawn:
        assert drawn.width > 600

    out = capsys.readouterr().out
    assert "placed: 21 of 51 tiles in 2 mosaics, 21 of them in 2 mosaics of 4 or more, the largest of 15" in out
    before, after = map(float, re.search(r"step across a seam: ([\d.]+) grey levels, ([\d.]+) with", out).groups())
    assert after < before
    exposed = dict(re.findall(r"^(5 folds by \w+|the test tiles) +([\d.]+)%", out, re.M))
    assert set(exposed) == {f"5 folds by {by}" for by in ("coverage", "random", "depth", "mosaic")} | {"the test tiles"}
    assert exposed["5 folds by mosaic"] == "0.0"
    cells = {(number, row, col): name for name, (number, row, col) in place.items() if number >= 0}
    test_near_train = [
        any(cells.get((m, r + a, c + b), "") in set(TILES.train_ids) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        for m, r, c in (place[name] for name in TILES.test_ids) if m >= 0
    ]  # fmt: skip
    assert float(exposed["the test tiles"]) == pytest.approx(100 * sum(test_near_train) / len(TILES.test_ids), abs=0.05)


def test_how_right_it_is_is_said_where_the_places_are_known(tmp_path, capsys):
    """The true table, but for one lone tile that is told to lie in a section, and two tiles of that swapped."""
    truth = pd.DataFrame({"id": NAMES, "mosaic": TRUTH.number, "row": TRUTH.row, "col": TRUTH.col})
    truth.loc[truth["mosaic"] < 0, "mosaic"] = 100 + np.arange(30)
    cells = truth[truth["mosaic"] == 0].sort_values(["row", "col"]).index
    truth.loc[cells[[0, 7]], ["row", "col"]] = truth.loc[cells[[7, 0]], ["row", "col"]].to_numpy()
    truth.loc[np.flatnonzero(TRUTH.number < 0)[0], ["mosaic", "row", "col"]] = [0, 3, 0]
    truth.to_csv(tmp_path / "demo_mosaic.csv", index=False)
    mosaics.put_together(tmp_path, TILES)
    # 21 of 22 are placed; of 15 * 14 / 2 + 6 * 5 / 2 pairs those with one of the swapped tiles are wrong
    assert f"{21 / 22:.1%} of the tiles with a neighbour are placed, " in (out := capsys.readouterr().out)
    assert f"{(13 * 12 + 6 * 5) / (15 * 14 + 6 * 5):.2%} of the pairs in one mosaic" in out


def test_a_run_draws_its_masks_too_and_old_pictures_go(tmp_path, run, monkeypatch):
    seen = []
    monkeypatch.setattr(figures, "save", lambda figure, path: seen.append((figure, path)))
    (tmp_path / ".kit" / "mosaics").mkdir(parents=True)
    (tmp_path / ".kit" / "mosaics" / "mosaic_007.png").write_text("old")
    mosaics.put_together(tmp_path, TILES, run)
    ((figure, path),) = seen
    assert path.name == "mosaic_000.png"
    assert not (tmp_path / ".kit" / "mosaics" / "mosaic_007.png").exists()
    (axes,) = figure.axes
    squares = {line.get_label(): len(line.get_xdata()) for line in axes.lines}
    known = sum(TRUTH.number[:N_TRAIN] == 0)
    assert squares == {"known mask": known, "predicted by corner": 15}
    colours = [to_rgba(colour) for colour in (style.SKY, style.ORANGE)]
    outlines = {tuple(drawn.get_edgecolor()[0]): drawn for drawn in axes.collections}
    assert list(outlines) == colours
    corners = outlines[colours[1]].get_paths()[0].vertices  # of every tile the upper left quarter
    assert ((corners + 0.5) % 101 <= 50).all()


def test_refusals_leave_nothing(tmp_path, run):
    data = tmp_path / "data"
    with pytest.raises(InputError, match="trained on other tiles"):
        mosaics.put_together(data, replace(TILES, fingerprint="other"), run)
    for name in ("oof.npy", "test.npy"):
        (run / name).unlink()
    with pytest.raises(InputError, match=r"no predictions: run python scripts/predict\.py .*/corner"):
        mosaics.put_together(data, TILES, run)
    assert not data.exists()


def chosen(train, test) -> Tiles:
    """Tiles without depths: `train` and `test` say which of all."""
    depths = (np.full(len(some), np.nan, np.float32) for some in (train, test))
    images = TRUTH.images
    return Tiles(NAMES[train], NAMES[test], images[train], images[test], TRUTH.masks[train], *depths, "chosen")


def test_without_any_neighbour_the_table_is_empty_and_nothing_of_an_earlier_one_is_left(tmp_path, capsys):
    alone = np.flatnonzero(TRUTH.number < 0)
    mosaics.put_together(tmp_path, TILES)
    capsys.readouterr()
    mosaics.put_together(tmp_path, chosen(alone[:15], alone[15:]))
    assert len(placement.read(tmp_path)) == 0
    assert [path.name for path in (tmp_path / ".kit").rglob("*.*")] == ["mosaic.csv"]
    assert "placed: 0 of 30 tiles in 0 mosaics" in capsys.readouterr().out


def test_folds_that_the_tiles_cannot_have_are_left_out(tmp_path, capsys):
    """All training tiles lie in one section, and none has a depth."""
    together = np.flatnonzero(TRUTH.number == 0)
    mosaics.put_together(tmp_path, chosen(together, np.flatnonzero(TRUTH.number != 0)))
    out = capsys.readouterr().out
    assert "left out: folds by depth, but no training tile has a depth" in out
    assert "left out: 1 mosaics cannot make 5 folds" in out
    assert re.findall(r"^5 folds by (\w+)", out, re.M) == ["coverage", "random"]
    assert not (tmp_path / ".kit" / "mosaic_folds.csv").exists()


def test_constant_tiles_alone_and_a_single_tile_are_no_fault(tmp_path, capsys):
    plain = np.zeros((8, 101, 101), np.uint8)
    nothing = np.empty(0, np.float32)
    one = Tiles(NAMES[:1], NAMES[:0], plain[:1], plain[:0], MASKS[:1], np.ones(1, np.float32), nothing, "one")
    black = Tiles(NAMES[:8], NAMES[:0], plain, plain[:0], MASKS[:8], np.ones(8, np.float32), nothing, "black")
    for tiles in (one, black):
        mosaics.put_together(tmp_path, tiles)
        assert len(placement.read(tmp_path)) == 0


def test_a_folder_that_cannot_be_written_is_refused_before_a_word(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("KIT_CACHE", raising=False)
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="is read-only: set KIT_CACHE"):
        mosaics.put_together(tmp_path, TILES)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_truth_and_prediction_are_both_seen_where_they_agree():
    """Each colour in the drawn picture, along the lower edge of salt that both say."""
    same = np.zeros((2, 101, 101), bool)
    same[:, :60] = True
    all_known = np.ones(2, bool)
    masks = {"known mask": (all_known, same), "predicted by $a$_$": (all_known, same)}
    figure = figures.mosaic(np.zeros((2, 101, 101)), np.array([0, 0]), np.array([0, 1]), masks, "Mosaic 0")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    (axes,) = figure.axes
    (left, at), (right, _) = axes.transData.transform([(30, 59.5), (170, 59.5)]).astype(int)
    band = pixels[len(pixels) - at - 5 : len(pixels) - at + 5, left:right]
    for colour in (style.SKY, style.ORANGE):
        away = abs(band - 255 * np.array(to_rgba(colour)[:3])).sum(axis=-1)
        near = away < 120  # the thin line is blended with the wide one
        assert near.any(axis=0).mean() > 0.9, colour
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(masks)


def test_the_picture_of_a_mosaic_shows_all_that_it_says():
    stack = np.random.default_rng(0).normal(size=(3, 101, 101))
    has = np.array([True, False, True])
    masks = {"known mask": (has, np.zeros((3, 101, 101), bool)), "predicted by a": (~has, stack > 0)}
    figure = figures.mosaic(stack, np.array([0, 0, 1]), np.array([0, 1, 1]), masks, "Mosaic 3: 3 tiles, 2 for training")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    (image,) = axes.images
    assert image.get_array().shape == (202, 202)
    assert np.ma.getmaskarray(np.ma.masked_invalid(image.get_array()))[101:, :101].all()
    assert len(axes.collections) == 1  # an empty mask has no outline, its tile a square all the same
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["known mask", "predicted by a"]
    width, height = canvas.get_width_height()
    for artist in (axes._left_title, axes.xaxis.label, axes.yaxis.label, figure.legends[0]):
        box = artist.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height

"""The chapter on the score and the net: the score as the competition defines it, the net's input read back."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kit import recipe as recipes
from kit.errors import InputError
from kit.recipe import Data, Net, Recipe, Salt, Stage
from kit.report import figures
from kit.report.figures.style import BLUE, GREEN, ORANGE
from kit.report.net_section import section
from kit.report.plates import Plate
from kit.runs import Run, write_json, write_probabilities, write_text
from tests.report.drawn import assert_readable, tinted
from tests.small import easy_tiles

pytestmark = pytest.mark.slow

TILES = easy_tiles(12, 4)
TINY = Recipe(
    name="tiny",
    data=Data(size=128, fit="pad-reflect", channels="grey+y", augment="default"),
    net=Net(encoder="", decoder="plain-unet", pretrained=False),
    salt=Salt(width=2),
    stages=(Stage(),),
)


def made(path, prob: np.ndarray | None, recipe: Recipe = TINY) -> Run:
    """A run with these out-of-fold predictions of the training tiles, in another order than theirs."""
    run = Run(path / "a<b>$x$")
    write_text(run / "recipe.toml", recipes.dumps(recipe))
    write_json(run / "environment.json", {"fingerprint": TILES.fingerprint})
    if prob is not None:
        write_probabilities(run / "oof.npy", prob.shape, [prob[::-1]])
        write_text(run / "oof_ids.csv", pd.DataFrame({"id": TILES.train_ids[::-1]}).to_csv(index=False))
    return run


def shifted(rows: int) -> np.ndarray:
    """The true masks, those of tile 7 moved by so many columns, all others perfect."""
    prob = TILES.masks.astype(float)
    prob[7] = np.roll(prob[7], rows, axis=1)
    return prob


def drawn(path, prob, recipe=TINY):
    return {part.name: part for part in section(made(path, prob, recipe), TILES).parts}


def test_the_score_is_explained_on_the_tile_that_is_neither_right_nor_wrong(tmp_path):
    figure = drawn(tmp_path, shifted(20))["metric"].figure
    tile, truth, prediction, compared, thresholds = figure.axes
    true, pred = TILES.masks[7], np.roll(TILES.masks[7], 20, axis=1)
    np.testing.assert_array_equal(tile.images[0].get_array(), TILES.train_images[7])
    assert tile.get_title() == f"tile {TILES.train_ids[7]}"
    np.testing.assert_array_equal(tinted(truth, BLUE), true)
    np.testing.assert_array_equal(tinted(prediction, ORANGE), pred)
    for colour, part in ((GREEN, true & pred), (BLUE, true & ~pred), (ORANGE, pred & ~true)):
        np.testing.assert_array_equal(tinted(compared, colour), part)

    # by hand, from the competition's text: hits at 0.50, 0.55 ... 0.95, each strictly above
    shared, union = (true & pred).sum(), (true | pred).sum()
    hit = [step for step in range(50, 100, 5) if 100 * shared > step * union]
    marks = {line.get_label().split(":")[0]: line.get_xdata() for line in thresholds.lines}
    assert [round(100 * x) for x in marks["hit"]] == hit
    assert [round(100 * x) for x in marks["miss"]] == [step for step in range(50, 100, 5) if step not in hit]
    assert thresholds.patches[0].get_width() == pytest.approx(shared / union)
    assert f"{shared:,} px / {union:,} px = {shared / union:.3f}" in figure.get_suptitle()
    assert figure.get_suptitle().endswith(f"the tile scores {len(hit) / 10:.2f}")
    assert 0 < len(hit) < 10


def test_an_iou_exactly_at_a_threshold_is_a_miss():
    """19 of 20 pixels: 0.95 in decimals, and not above it."""
    true = np.zeros((101, 101), bool)
    true[0, :20] = True
    pred = true & (np.arange(101) < 19)
    figure = figures.metric_explained(np.zeros((101, 101), np.uint8), true, pred, "x")
    assert figure.get_suptitle().endswith("0.950, above 9 of 10 thresholds: the tile scores 0.90")


def test_the_decision_of_the_run_makes_the_masks(tmp_path):
    """At 0.3 tile 7 is predicted well; at 0.5, which stands where nothing is decided, it would be empty."""
    prob = shifted(20)
    prob[7] *= 0.4
    run = made(tmp_path, prob)
    plain = dict.fromkeys(("score", "baseline", "gain_low", "gain_high"))
    decision = {"threshold": 0.3, "min_component": 0, "rules": [], "accepted": True, **plain}
    write_json(run / "decision.json", decision)
    figure = section(run, TILES).parts[0].figure
    np.testing.assert_array_equal(tinted(figure.axes[2], ORANGE), np.roll(TILES.masks[7], 20, axis=1))


def test_the_net_sees_the_tile_mirrored_at_its_border_beside_its_rows(tmp_path):
    found = drawn(tmp_path, shifted(20))["net-input"]
    tile, grey, y = found.figure.axes
    image = TILES.train_images[7]
    np.testing.assert_array_equal(tile.images[0].get_array(), image)
    np.testing.assert_allclose(grey.images[0].get_array(), np.pad(image / 255, (13, 14), "reflect"), atol=1e-6)
    np.testing.assert_allclose(y.images[0].get_array(), np.repeat(np.linspace(0, 1, 128)[:, None], 128, 1), atol=1e-6)
    (frame,) = grey.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((12.5, 12.5), 101, 101)
    assert found.note == "The tile, as it is, lies in the middle of 128 px; its mirror image fills the rest."


@pytest.mark.parametrize(
    ("data", "names", "words"),
    [
        (Data(size=64, fit="resize", channels="grey3"), 3, "The tile is resized to 64 px."),
        (Data(size=128, resize=110, fit="pad-random", channels="grey+depth+grey*y"), 3,
         "The tile, resized to 110 px, lies in the middle, in training anywhere of 128 px; its border fills the rest."),
    ],
)  # fmt: skip
def test_other_inputs(tmp_path, data, names, words):
    found = drawn(tmp_path, None, replace(TINY, data=replace(data, augment="none")))
    assert list(found) == ["net-input", "stages"]  # no predictions to score, no augmentation to show
    channels = [axes for axes in found["net-input"].figure.axes[1:] if axes.images]
    assert len(channels) == names
    assert len({axes.get_title() for axes in channels}) == names
    assert bool(channels[0].patches) == (data.fit != "resize")
    shown = channels[0].images[0].get_array()
    assert channels[0].get_xlabel() == f"black {shown.min():.2f}, white {shown.max():.2f}"
    assert found["net-input"].note == words
    assert_readable(found["net-input"].figure)


def test_five_augmentations_stand_beside_the_tile_and_move_its_mask_along(tmp_path):
    axes = drawn(tmp_path, shifted(20))["augmentations"].figure.axes
    assert [one.get_xlabel() for one in axes] == ["as it is", *(f"epoch {k}" for k in range(1, 6))]
    np.testing.assert_array_equal(axes[0].images[0].get_array(), TILES.train_images[7])
    np.testing.assert_array_equal(tinted(axes[0], BLUE), TILES.masks[7])
    assert len({one.images[0].get_array().tobytes() for one in axes}) > 3
    for one in axes:  # salt is the brighter part of these tiles, wherever it is moved
        grey, salt = one.images[0].get_array(), tinted(one, BLUE)
        assert grey[salt].mean() > grey[~salt].mean() + 30


def test_the_table_adds_up(tmp_path):
    table = drawn(tmp_path, None)["stages"]
    parameters = [int(text.replace(",", "")) for text in table.frame["parameters"]]
    assert f"{sum(parameters):,} parameters" in table.note
    assert table.frame.iloc[0].tolist()[:3] == ["input", "Inputs", "2 x 128 x 128"]
    assert sum(float(share.rstrip("%")) for share in table.frame["share"]) == pytest.approx(100, abs=0.5)


def test_an_ensemble_has_a_score_and_no_net(tmp_path):
    run = made(tmp_path, shifted(20))
    write_json(run / "ensemble.json", {})
    assert [part.name for part in section(run, TILES).parts] == ["metric"]


def test_without_any_salt_there_is_no_tile_to_explain(tmp_path):
    bare = replace(TILES, masks=np.zeros_like(TILES.masks))
    names = [part.name for part in section(made(tmp_path, shifted(20)), bare).parts]
    assert names == ["net-input", "augmentations", "stages"]


def test_other_tiles_are_refused(tmp_path):
    with pytest.raises(InputError, match="trained on other tiles"):
        section(made(tmp_path, None), replace(TILES, fingerprint="other"))


def test_every_text_can_be_read(tmp_path):
    for part in section(made(tmp_path, shifted(20)), TILES).parts:
        assert part.question.endswith("?")
        if isinstance(part, Plate):
            assert_readable(part.figure)
    long_name = "a very long name of a tile, from another competition"
    assert_readable(figures.metric_explained(TILES.train_images[7], TILES.masks[7], TILES.masks[6], long_name))

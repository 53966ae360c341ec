"""What each part of a decision changed, against planted tiles and the competition's formula written out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kit.data.placement import digest
from kit.errors import InputError
from kit.report import changes
from kit.scoring.decision import Decision
from tests.report.planted import DECISION, planted_run, planted_tiles

TILES = planted_tiles()


def score(pred, true) -> float:
    """The competition's score of one tile as its page words it."""
    if not pred.any() and not true.any():
        return 1.0
    iou = (pred & true).sum() / (pred | true).sum()
    return float(np.mean([iou > threshold / 100 for threshold in range(50, 100, 5)]))


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return changes.judge(planted_run(tmp_path_factory.mktemp("runs") / "a", TILES), TILES, None)


def test_each_rule_changed_the_tiles_that_were_planted_for_it(judged):
    of_rule = judged.changes.assign(id=judged.ids[judged.changes["tile"]]).groupby("rule", observed=False)["id"]
    found = {rule: set(ids) for rule, ids in of_rule}
    assert list(found) == [
        "threshold 0.40", "components under 20 pixels", "holes under 100 pixels", "full-empty", "constant-empty"
    ]  # fmt: skip
    ids = TILES.train_ids
    assert found == {
        "threshold 0.40": {ids[0]},
        "components under 20 pixels": {ids[1]},
        "holes under 100 pixels": {ids[2]},
        "full-empty": {ids[0]},
        "constant-empty": {ids[-1]},
    }


def test_scores_before_and_after_are_those_of_the_formula(judged):
    prob = np.asarray(judged.prob, np.float64)
    true = TILES.masks[judged.rows]
    assert [score(*pair) for pair in zip(judged.masks, true, strict=True)] == pytest.approx(judged.scores)
    first = judged.changes.groupby("tile")["before"].first()
    assert [score(prob[tile] > 0.5, true[tile]) for tile in first.index] == pytest.approx(first)
    for mask, change in zip(judged.before, judged.changes.itertuples(), strict=True):
        assert score(mask, true[change.tile]) == pytest.approx(change.before)
        assert change.left == mask.sum() + change.added - change.removed
        if change.rule == "threshold 0.40":
            np.testing.assert_array_equal(mask, prob[change.tile] > 0.5)
    last = judged.changes.groupby("tile")["after"].last()
    assert judged.scores[last.index] == pytest.approx(last)
    table = changes.by_rule(judged.changes, len(judged.ids)).set_index("rule")
    plain = np.mean([score(p > 0.5, t) for p, t in zip(prob, true, strict=True)])
    assert plain + table["gain"].sum() == pytest.approx(judged.scores.mean())
    assert table.loc["constant-empty"].to_dict() == {"changed": 1, "better": 1, "worse": 0, "gain": 1 / 40}


def test_what_stands_at_one_half_has_no_parts():
    assert list(changes.parts_of(Decision())) == []


def test_the_mask_before_a_rule_is_the_one_that_it_mended(judged):
    own = dict(zip(judged.changes["rule"], zip(judged.before, judged.changes["tile"], strict=True), strict=True))
    for rule, planted in (("components under 20 pixels", np.s_[:3, :3]), ("holes under 100 pixels", np.s_[97, 50])):
        before, tile = own[rule]
        lost = before != judged.masks[tile]
        np.testing.assert_array_equal(judged.flipped[list(judged.changes["rule"]).index(rule)], lost)
        assert lost[planted].all()
        assert np.count_nonzero(lost) == lost[planted].size
    before, tile = own["full-empty"]
    assert before.all()
    assert not judged.masks[tile].any()


def test_a_mosaic_rule_is_the_last_part_and_needs_its_placement(tmp_path):
    """Three tiles with full last rows lie in a column: the rule says that the lower two are empty."""
    masks = TILES.masks.copy()
    masks[1] = np.arange(101)[:, None] > 50
    tiles, near = replace(TILES, masks=masks), TILES.train_ids[[1, 2, 3]]
    placement = pd.DataFrame({"id": near, "mosaic": 0, "row": [0, 1, 2], "col": 0})
    decision = Decision(rules=("cap-empty",), placement=digest(placement))
    run = planted_run(tmp_path / "a", tiles, decision)
    judged = changes.judge(run, tiles, placement)
    assert set(judged.changes["rule"]) == {"cap-empty"}
    assert judged.left_out == []
    assert set(judged.ids[judged.changes["tile"]]) == set(near[1:])
    assert not judged.masks[judged.changes["tile"]].any()
    for other in (None, placement.assign(row=[0, 1, 3])):  # not what the rule was measured on
        judged = changes.judge(run, tiles, other)
        assert (len(judged.changes), judged.left_out) == (0, ["cap-empty"])


def test_a_run_of_other_tiles_is_refused(tmp_path):
    run = planted_run(tmp_path / "a", TILES, DECISION)
    with pytest.raises(InputError, match="trained on other tiles"):
        changes.judge(run, replace(TILES, fingerprint="other"), None)

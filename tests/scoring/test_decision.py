"""How a decision makes masks, says itself, and comes back from its file."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from kit.errors import InputError
from kit.scoring.decision import FILES, HOLES, Decision
from kit.scoring.expected import Calibration
from kit.scoring.threshold import THRESHOLDS

LEARNT = Calibration((0.2, 0.5), (0.1, 0.4, 0.9), (0.1, 0.9), (0.1, 0.7), (0.0, -0.3, -0.3, 1.0))
HEARING = replace(LEARNT, empty=(*LEARNT.empty, 2.0))
OLD = {  # as the first version wrote it
    "threshold": 0.36, "min_component": 20, "rules": ["constant-empty"], "score": 0.8, "baseline": 0.79,
    "gain_low": 0.004, "gain_high": 0.016, "accepted": True,
}  # fmt: skip


def some_prob(n: int = 10) -> np.ndarray:
    return np.random.default_rng(0).random((n, 12, 12)).astype(np.float16)


class TestMasks:
    def test_default_is_one_half_and_every_component(self):
        assert not Decision().accepted
        np.testing.assert_array_equal(Decision().masks(some_prob()), some_prob() > 0.5)

    @pytest.mark.parametrize("threshold", THRESHOLDS)
    def test_float16_on_the_threshold_is_judged_as_the_number_it_is(self, threshold):
        nearest = np.float16(threshold)
        prob = np.array([np.nextafter(nearest, np.float16(0)), nearest, np.nextafter(nearest, np.float16(1))])
        expected = [float(value) > float(threshold) for value in prob]
        assert prob.dtype == np.float16
        assert Decision(float(threshold)).masks(prob.reshape(1, 1, 3)).ravel().tolist() == expected

    def test_the_gate_empties_where_the_head_is_surer_than_that(self):
        head = np.array([0.1, 0.3, np.float16(0.3), 0.9])
        assert head[2] > 0.3
        masks = Decision(empty_above=0.3).masks(some_prob(4), head=head)
        np.testing.assert_array_equal(masks, (some_prob(4) > 0.5) & np.array([1, 1, 0, 0], bool)[:, None, None])

    def test_islands_go_before_holes_are_filled_and_full_masks_last(self):
        mask = np.ones((12, 12), bool)
        mask[2:9, 2:9] = False
        mask[5, 5] = True  # an island in a hole, without which that has 49 pixels
        prob = mask[None].astype(float)
        assert Decision(min_component=5, min_hole=49).masks(prob).sum() == 144 - 49
        assert Decision(min_component=5, min_hole=50).masks(prob).all()
        assert not Decision(min_component=5, min_hole=50, rules=("full-empty",)).masks(prob).any()

    @pytest.mark.parametrize("head", [None, np.linspace(0, 1, 10)])
    def test_with_a_calibration_each_tile_has_its_own_threshold(self, head):
        learnt = LEARNT if head is None else HEARING
        masks = Decision(threshold=0.9, calibration=learnt).masks(some_prob(), head=head)
        cuts = learnt.thresholds(some_prob(), head)
        np.testing.assert_array_equal(masks, [p.astype(float) > cut for p, cut in zip(some_prob(), cuts, strict=True)])

    def test_what_cannot_be_applied_is_an_error(self):
        with pytest.raises(ValueError, match="which tiles are constant"):
            Decision(rules=("constant-empty",)).masks(some_prob())
        for deaf in (Decision(empty_above=0.5), Decision(calibration=HEARING)):
            with pytest.raises(ValueError, match="empty head"):
                deaf.masks(some_prob())


class TestWords:
    def test_a_decision_and_its_reason(self):
        accepted = Decision(0.36, 20, (), 0.8, 0.79, 0.004, 0.016, True)
        numbers = "nested score 0.8000 against 0.7900 at 0.50, gain +0.0040 to +0.0160 (95 %)"
        assert accepted.in_words() == f"Threshold 0.36, components under 20 pixels removed\n{numbers}"
        assert Decision().in_words() == "Threshold 0.50"
        refused = Decision(score=0.79, baseline=0.79, gain_low=-0.001, gain_high=0.001).in_words()
        assert refused.startswith("Threshold stays at 0.50: no gain is shown\nnested score 0.7900")

    @pytest.mark.parametrize(
        ("decision", "words"),
        [
            (Decision(0.4, min_hole=20), "Threshold 0.40, holes under 20 pixels filled"),
            (Decision(0.4, min_hole=HOLES[-1]), "Threshold 0.40, holes filled"),
            (Decision(rules=("constant-empty", "full-empty")), "Threshold 0.50, full masks emptied"),
            (Decision(empty_above=0.7), "Threshold 0.50, empty where the head says so with more than 0.70"),
            (Decision(calibration=LEARNT), "Mask of greatest expected score"),
            (Decision(rules=("vertical-down", "cap-empty")), "Threshold 0.50, vertical down, cap empty"),
        ],
    )
    def test_everything_that_it_does_is_said(self, decision, words):
        assert decision.in_words() == words


class TestFile:
    @pytest.mark.parametrize(
        "decision",
        [
            Decision(),
            Decision(0.36, 20, ("constant-empty",), 0.8, 0.79, 0.004, 0.016, True),
            Decision(min_hole=20, empty_above=0.7, rules=("full-empty", "cap-empty"), placement="0123"),
            Decision(calibration=LEARNT),
            Decision(calibration=HEARING),
        ],
    )
    def test_comes_back(self, tmp_path, decision):
        decision.to_json(tmp_path / "decision.json")
        assert Decision.from_json(tmp_path / "decision.json") == decision
        assert [path.name for path in tmp_path.iterdir()] == [FILES[0]]

    def test_an_old_file_is_still_read(self, tmp_path):
        (tmp_path / "decision.json").write_text(json.dumps(OLD))
        expected = Decision(0.36, 20, ("constant-empty",), 0.8, 0.79, 0.004, 0.016, True)
        assert Decision.from_json(tmp_path / "decision.json") == expected

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            "{}",
            json.dumps({"threshold": 0.4}),
            *(
                json.dumps({**asdict(Decision()), **change})
                for change in (
                    {"threshold": 1.5},
                    {"threshold": "0.4"},
                    {"min_component": -1},
                    {"min_component": 2.5},
                    {"min_hole": -1},
                    {"min_hole": True},
                    {"empty_above": 1.0},
                    {"empty_above": "0.5"},
                    {"rules": None},
                    {"rules": ["fill-holes"]},
                    {"placement": None},
                    {"score": "0.8", "baseline": 0.7, "gain_low": 0.0, "gain_high": 0.1},
                    {"score": 0.8},
                    {"calibration": []},
                    {"calibration": {}},
                    {"calibration": {**asdict(LEARNT), "salt": [0.1]}},
                    {"more": 1},
                )
            ),
        ],
    )
    def test_a_spoilt_one_is_refused_in_one_line_that_names_it(self, tmp_path, text):
        (tmp_path / "decision.json").write_text(text)
        with pytest.raises(InputError, match=r"decision\.json") as error:
            Decision.from_json(tmp_path / "decision.json")
        assert "\n" not in str(error.value)

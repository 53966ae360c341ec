"""How probabilities become masks, and why so: runs/NAME/decision.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from kit.errors import InputError
from kit.runs import read_json, write_json
from kit.scoring import mosaic_rules
from kit.scoring.expected import Calibration
from kit.scoring.postprocess import empty_constant, empty_full, fill_small_holes, remove_small_components

FILES = ("decision.json", "decision.csv", "decision.png")  # of a run: the decision, all that was compared, a figure
SIZES = (0, 5, 10, 20, 50, 100, 200)  # pixels, smallest component kept
HOLES = (0, 20, 100, 10_000)  # pixels, smallest hole kept; the last is larger than any hole of a tile
CONSTANT_EMPTY, FULL_EMPTY = "constant-empty", "full-empty"
RULES = (CONSTANT_EMPTY, FULL_EMPTY, *mosaic_rules.NAMES)
_ALWAYS = ("threshold", "min_component", "rules", "score", "baseline", "gain_low", "gain_high", "accepted")


@dataclass(frozen=True)
class Decision:
    """How probabilities become masks, and the numbers that justify it: runs/NAME/decision.json.

    `Decision()`, threshold 0.5 and every component kept, stands where nothing was tuned. Scores are means over tiles.
    """

    threshold: float = 0.5
    min_component: int = 0  # pixels
    rules: tuple[str, ...] = ()
    score: float | None = None  # of the tuned candidate, nested; this and the next three are None where not tuned
    baseline: float | None = None  # at threshold 0.5 with every component kept
    gain_low: float | None = None  # 95 % interval of score - baseline, paired bootstrap over tiles
    gain_high: float | None = None
    accepted: bool = False  # the gain is shown, so what stands here is what was tuned
    min_hole: int = 0  # pixels; smaller holes are filled
    empty_above: float | None = None  # a tile is empty where the empty head's probability of that is higher
    calibration: Calibration | None = None  # each tile's threshold is that of the greatest expected score
    placement: str = ""  # hash of the mosaic.csv that the mosaic rules were measured on

    @property
    def needs_head(self) -> bool:
        """Whether `masks` must be given what the net's empty head says."""
        return self.empty_above is not None or (self.calibration is not None and self.calibration.needs_head)

    @property
    def mosaic_rules(self) -> tuple[str, ...]:
        """The rules that need the tiles' neighbours, which `masks` does not know."""
        return tuple(rule for rule in self.rules if rule in mosaic_rules.NAMES)

    def masks(self, prob: np.ndarray, constant: np.ndarray | None = None, head: np.ndarray | None = None) -> np.ndarray:
        """Probabilities (N, H, W) of any float type -> masks (N, H, W) bool, before any mosaic rule.

        constant (N,) bool: images of one grey; head (N,): the empty head's probability that a tile is empty. Raises
        ValueError when the decision needs one of them and it is not given.
        """
        if CONSTANT_EMPTY in self.rules and constant is None:
            raise ValueError(f'the decision has the rule "{CONSTANT_EMPTY}": say which tiles are constant')
        if self.needs_head and head is None:
            raise ValueError("the decision hears the net's empty head: give what it says")
        masks = self._above(prob, head)
        masks = fill_small_holes(remove_small_components(masks, self.min_component), self.min_hole)
        if FULL_EMPTY in self.rules:
            masks = empty_full(masks)
        return empty_constant(masks, constant) if CONSTANT_EMPTY in self.rules and constant is not None else masks

    def _above(self, prob: np.ndarray, head: np.ndarray | None) -> np.ndarray:
        """Pixels above the threshold, taken as float64: a plain 0.35 would be rounded to the predictions' float16."""
        if self.calibration is not None:
            return prob > self.calibration.thresholds(prob, head)[:, None, None]
        masks = prob > np.float64(self.threshold)
        if self.empty_above is not None and head is not None:
            masks &= (head <= np.float64(self.empty_above))[:, None, None]
        return masks

    def in_words(self) -> str:
        """The decision and, where it was tuned, its reason on a second line."""
        choice = self._choice()
        if self.score is None:
            return choice
        reason = (
            f"nested score {self.score:.4f} against {self.baseline:.4f} at 0.50, "
            f"gain {self.gain_low:+.4f} to {self.gain_high:+.4f} (95 %)"
        )
        return f"{choice if self.accepted else 'Threshold stays at 0.50: no gain is shown'}\n{reason}"

    def _choice(self) -> str:
        parts = [f"Threshold {self.threshold:.2f}" if self.calibration is None else "Mask of greatest expected score"]
        if self.empty_above is not None:
            parts.append(f"empty where the head says so with more than {self.empty_above:.2f}")
        if self.min_component:
            parts.append(f"components under {self.min_component} pixels removed")
        if self.min_hole:
            parts.append("holes filled" if self.min_hole == HOLES[-1] else f"holes under {self.min_hole} pixels filled")
        if FULL_EMPTY in self.rules:
            parts.append("full masks emptied")
        return ", ".join([*parts, *(rule.replace("-", " ") for rule in self.mosaic_rules)])

    def to_json(self, path: Path | str) -> None:
        write_json(path, asdict(self))

    @classmethod
    def from_json(cls, path: Path | str) -> "Decision":
        """Raises InputError, naming the file, for one that `to_json` did not write, now or in an earlier version."""
        values = read_json(path)
        try:
            return cls._of(values)
        except (TypeError, KeyError, ValueError, AttributeError, IndexError):
            raise InputError(f"{path} does not hold a decision: write it anew with tune_threshold.py") from None

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> "Decision":
        if not set(_ALWAYS) <= set(values) <= {field.name for field in fields(cls)}:
            raise ValueError("other fields")
        learnt = values.get("calibration")
        calibration = None if learnt is None else Calibration.of(learnt)
        decision = cls(**{**values, "rules": tuple(values["rules"]), "calibration": calibration})
        cut = decision.empty_above
        reason = [decision.score, decision.baseline, decision.gain_low, decision.gain_high]
        sound = (
            set(decision.rules) <= set(RULES)
            and type(decision.min_component) is int
            and 0 <= decision.min_component <= max(SIZES)
            and type(decision.min_hole) is int
            and 0 <= decision.min_hole <= max(HOLES)
            and 0 < decision.threshold < 1
            and (cut is None or 0 < cut < 1)
            and type(decision.placement) is str
            and (all(n is None for n in reason) or all(isinstance(n, float | int) for n in reason))
        )
        if not sound:
            raise ValueError("other values")
        return decision

"""What mosaic rules are worth on the tiles of a run, and their masks put in place of predictions."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from kit.data.placement import digest
from kit.scoring.metric import average_precision
from kit.scoring.mosaic_rules import NAMES, claims, propose, weakest_first
from kit.scoring.threshold import bootstrap_interval

MIN_PAIRS = 5  # of known tiles, before a rule may touch a prediction
COLUMNS = ["name", "score", "gain", "gain_low", "gain_high", "used", "pairs", "precision", "reach"]


class Neighbours:
    """What the known tiles, ids (n,) with masks (n, H, W) bool, say about those that the placement puts near them."""

    def __init__(self, placement: pd.DataFrame, ids: np.ndarray, masks: np.ndarray):
        self.placement = digest(placement)
        self.claims = claims(placement, ids, masks)
        self._mask_of = dict(zip(ids, masks, strict=True))

    def judge(self, scores: pd.Series, seed: int = 0) -> pd.DataFrame:
        """Each rule held against the masks of known tiles, and against the predictions that it would replace.

        scores: of each out-of-fold tile under the decision, by id. Returns a row for each rule: name; score, the mean
        over the out-of-fold tiles with this rule, and its gain with the 95 % interval (paired bootstrap over tiles);
        used; pairs of known tiles; precision, the rule's mean score on these; reach, the other tiles that it speaks of.
        A rule is used where its gain is outside noise. It learns nothing from the tiles, so nothing need be held out.
        """
        rng, rows = np.random.default_rng(seed), []
        for rule in NAMES:
            own = self._right[self._right["rule"] == rule]
            gains = (self.rescored(scores, [rule]) - scores).to_numpy()
            low, high = bootstrap_interval(gains, rng)
            used = len(own) >= MIN_PAIRS and low > 0
            reach = int((self.claims["rule"] == rule).sum()) - len(own)
            gain = gains.mean()
            rows.append((rule, scores.mean() + gain, gain, low, high, used, len(own), own["score"].mean(), reach))
        return pd.DataFrame(rows, columns=COLUMNS)

    def rescored(self, scores: pd.Series, rules: Sequence[str]) -> pd.Series:
        """The scores of tiles, by id, once the rules have replaced what they speak of."""
        result = scores.copy()
        for rule in weakest_first(rules):
            own = self._right[(self._right["rule"] == rule) & self._right["target"].isin(scores.index)]
            result[own["target"]] = own["score"].to_numpy()
        return result

    def replaced(self, masks: np.ndarray, ids: Sequence[str], rules: Sequence[str]) -> np.ndarray:
        """Masks (N, H, W) bool of the tiles ids (N,), those that the rules speak of replaced by what they say."""
        result, place = masks.copy(), {name: index for index, name in enumerate(ids)}
        for rule in weakest_first(rules):
            for _, source, target in self.claims[self.claims["rule"] == rule].itertuples(index=False):
                if target in place:
                    result[place[target]] = propose(rule, self._mask_of[source])
        return result

    @cached_property
    def _right(self) -> pd.DataFrame:
        """The claims about known tiles, and the score of each."""
        pairs = self.claims[self.claims["target"].isin(self._mask_of)].copy()
        pairs["score"] = [
            float(average_precision(propose(rule, self._mask_of[source])[None], self._mask_of[target][None])[0])
            for rule, source, target in pairs.itertuples(index=False)
        ]
        return pairs

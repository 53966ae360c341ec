"""Labels of test tiles against their definition by brute force, and planted leaks that are found."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from kit import recipe as recipes
from kit.errors import InputError
from kit.inference import predict as predicting
from kit.inference.pseudo import Options, agreement, choose, folds_to_label, label, quotas
from kit.nets.tta import Prediction
from kit.runs import Run, read_json, write_json, write_probabilities, write_text
from tests.inference.labelled import CONSTANT, FOLDS, TILES, labels_of, made, some_prob
from tests.small import tiny_recipe

pytestmark = pytest.mark.usefixtures("home")


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum() if (one | other).any() else 1.0


def confidence_of(probs: list[np.ndarray], views: list[np.ndarray] | None = None) -> float:
    """Of one tile, pixel by pixel."""
    mean = np.mean(np.stack(probs).astype(np.float64), axis=0)
    sure = np.mean([value < 0.2 or value > 0.8 for value in mean.ravel().tolist()])
    pairs = [iou(one > 0.5, other > 0.5) for one, other in combinations(views or probs, 2)]
    return float(sure * np.mean(pairs or [1.0]))


@pytest.mark.parametrize("seeds", [[0], [0, 1], [0, 1, 2]])
def test_the_confidence_is_that_of_its_formula(seeds):
    runs = [made(f"run{seed}", seed) for seed in seeds]
    label(runs, TILES, [0], Options(confidence=0.3, most=10_000))
    table, masks, source = labels_of(runs[0])
    probs = [some_prob(seed) for seed in seeds]
    expected = np.array([confidence_of([prob[i] for prob in probs]) for i in range(30)])
    expected[CONSTANT] = 0
    assert 5 < (expected >= 0.3).sum() < 29
    assert list(table.index) == [name for name, value in zip(TILES.test_ids, expected, strict=True) if value >= 0.3]
    np.testing.assert_allclose(table["confidence"], expected[expected >= 0.3], atol=2e-4)
    assert (table["weight"] == table["confidence"]).all()
    assert (
        set(table["models"]) == {" ".join(source["models"])} == {" ".join(f"runs/run{seed}/fold_0" for seed in seeds)}
    )
    mean = np.mean(np.stack(probs).astype(np.float64), axis=0)[expected >= 0.3]
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks, mean > 0.5)
    label(runs, TILES, [0], Options(confidence=0.3, most=10_000, soft=True))
    soft = labels_of(runs[0])[1]
    assert soft.dtype == np.float16
    np.testing.assert_allclose(soft, mean, atol=1e-3)


def test_agreement_by_hand():
    empty, half = np.zeros((4, 4), bool), np.arange(16).reshape(4, 4) < 8
    quarter = np.arange(16).reshape(4, 4) < 4
    masks = np.stack([np.stack(tile) for tile in zip([half, half, quarter], [empty, empty, empty], strict=True)])
    everyone = np.ones((3, 2), bool)
    np.testing.assert_allclose(agreement(masks, everyone), [(1 + 0.5 + 0.5) / 3, 1])
    np.testing.assert_allclose(agreement(masks, np.array([[1, 1], [0, 1], [1, 1]], bool)), [0.5, 1])
    np.testing.assert_allclose(agreement(masks, np.array([[1, 1], [0, 0], [0, 0]], bool)), [1, 1])


@pytest.mark.parametrize("flips_of", [1, 2])
def test_mirrored_views_count_as_models(flips_of, monkeypatch):
    """Planted views: the plain one and what the mirrored one must have been for the mean that is on disk."""
    plain = {f"run{seed}": (some_prob(seed).astype(float) + some_prob(seed + 5)) / 2 for seed in range(flips_of)}

    def views(run, recipe, fold, images, depth, tta, weights):
        assert (tta, weights, fold, len(images)) == ("none", "last", 0, len(depth))
        rows = [next(i for i in range(30) if np.array_equal(TILES.test_images[i], image)) for image in images]
        for first in range(0, len(rows), 4):
            yield Prediction(plain[run.name][rows[first : first + 4]].astype(np.float32), np.empty(0))

    monkeypatch.setattr(predicting, "fold_probabilities", views)
    runs = [made(name, int(name[3:])) for name in plain]
    label(runs, TILES, [0], Options(confidence=0.25, most=10_000, flips=True))
    table = labels_of(runs[0])[0]
    probs = [some_prob(seed).astype(float) for seed in range(flips_of)]
    for i, name in enumerate(TILES.test_ids):
        each = [
            view for prob, one in zip(probs, plain.values(), strict=True) for view in (one[i], 2 * prob[i] - one[i])
        ]
        expected = confidence_of([prob[i] for prob in probs], each) if i != CONSTANT else 0
        assert (name in table.index) == (expected >= 0.25)
        if name in table.index:
            assert table["confidence"][name] == pytest.approx(expected, abs=5e-3)
    assert len(table) > 5
    write_json(runs[0].fold(0) / "test.json", read_json(runs[0].fold(0) / "test.json") | {"tta": "none"})
    with pytest.raises(InputError, match="was not mirrored"):
        label(runs, TILES, [0], Options(flips=True))


@pytest.mark.parametrize("most", [1, 10, 37, 1580, 3200])
def test_quotas_are_the_shares_of_the_training_tiles(most):
    rng = np.random.default_rng(most)
    classes = rng.choice(11, 1000, p=[0.39, 0.1, 0.01, 0, 0.05, 0.05, 0.1, 0.1, 0.1, 0.05, 0.05])
    quota = quotas(classes, most)
    assert quota.sum() == most
    assert (np.abs(quota - most * np.bincount(classes, minlength=11) / 1000) < 1 + 1e-9).all()

    confidence, kinds = rng.random(5000).round(2), rng.integers(0, 11, 5000)
    eligible = confidence > rng.random()
    chosen = choose(confidence, kinds, eligible, quota)
    assert list(chosen) == sorted(set(chosen))
    assert eligible[chosen].all()
    for kind in range(11):
        inside = [i for i in range(5000) if eligible[i] and kinds[i] == kind]
        taken = [i for i in chosen if kinds[i] == kind]
        assert len(taken) == min(quota[kind], len(inside))
        left = set(inside) - set(taken)
        assert not left or not taken or max(confidence[i] for i in left) <= min(confidence[i] for i in taken)


def test_quotas_are_those_of_the_tiles_the_fold_trains_on():
    """The validation tiles of fold 0, four in ten of all, are empty: what they hold may not shape the labels."""
    folds = np.where(np.arange(40) % 5 < 2, 0, 1 + np.arange(40) % 3)
    masks = TILES.masks.copy()
    masks[folds == 0] = False
    masks[folds != 0, 90:] = True
    tiles = replace(TILES, masks=masks)
    run = made("a", folds=folds)
    label([run], tiles, [0], Options(confidence=0.01, most=24))
    counts = np.bincount(-(-10 * labels_of(run)[1].sum(axis=(1, 2)) // 101**2), minlength=11)
    share = np.bincount(-(-10 * masks[folds != 0].sum(axis=(1, 2)) // 101**2), minlength=11)
    assert share.sum() == 24
    assert share[0] == 0
    assert (counts <= share).all()
    assert counts.sum() > 5


def test_at_most_as_many_as_the_fold_trains_on():
    run = made("a")
    tiles = replace(TILES, masks=np.zeros_like(TILES.masks))
    empty = np.zeros((30, 101, 101), np.float16)
    write_probabilities(run.fold(0) / "test.npy", empty.shape, [empty])
    label([run], tiles, [0], Options())
    assert len(labels_of(run)[0]) == 29  # all but the constant one, 30 being the bound


def test_the_audit_keeps_what_the_models_saw():
    runs = [made("a"), made("b", 1, seen=[TILES.train_ids[1], "of-another-data-set"])]
    out = label(runs, TILES, [0], Options(confidence=0.3))
    seen = set(TILES.train_ids[FOLDS != 0]) | {"of-another-data-set"}
    assert set(labels_of(runs[0])[2]["seen"]) == seen
    assert "saw 31 training tiles, none of the 10 validation tiles" in out


def test_planted_leaks_are_found():
    a, other = made("a"), FOLDS.copy()
    other[[4, 5]] = other[[5, 4]]  # tile 4, which a validates in fold 0, becomes one that b trains on
    cases = [
        ([a, made("b", folds=other)], "leak: runs/b/fold_0 saw 1 of the 10 validation tiles of fold 0"),
        ([a, made("c", seen=list(TILES.train_ids[[8, 12]]))], r"leak: runs/c/fold_0 saw 2 of .* \(such as"),
    ]
    tampered = made("d")
    write_text(tampered / "folds.csv", pd.DataFrame({"id": TILES.train_ids, "fold": other}).to_csv(index=False))
    cases.append(([tampered], r"leak: .*valid_ids.csv and .*folds.csv differ in 2 tiles of fold 0"))
    unknown = made("e", seen=[])
    (unknown / "fold_0/pseudo.json").unlink()
    cases.append(([unknown], "pseudo.json is missing"))
    for name, said in (("f", {}), ("g", {"seen": 3, "tiles": ["b"]}), ("h", []), ("j", {"seen": [], "tiles": ["b"]})):
        silent = made(name, seen=[])
        write_json(silent / "fold_0/pseudo.json", said)
        cases.append(([silent], "pseudo.json does not"))
    denied = made("k", seen=[TILES.train_ids[8]])
    write_text(denied / "recipe.toml", recipes.dumps(tiny_recipe()))  # which names no pseudo_run
    cases.append(([denied], "leak: runs/k/fold_0 saw 1 of the 10 validation tiles"))
    damaged = made("i")
    write_text(damaged / "fold_0/valid_ids.csv", "")
    cases.append(([damaged], "valid_ids.csv is damaged"))
    for members, words in cases:
        with pytest.raises(InputError, match=words) as caught:
            label(members, TILES, [0], Options())
        assert "\n" not in str(caught.value)
        assert not (members[0] / "pseudo").exists()


def test_a_leak_is_inherited_through_rounds():
    """b learnt from labels whose makers saw tile 0; c is trained on b's labels, and d on c's: none may label fold 0."""
    b = made("b", folds=(FOLDS + 1) % 4, fold=1, seen=[TILES.train_ids[1]])  # b's fold 1 holds the tiles of a's fold 0
    label([b], TILES, [1], Options(confidence=0.3))
    seen = labels_of(b, "fold_1")[2]["seen"]
    c = made("c", seen=seen)
    label([c], TILES, [0], Options(confidence=0.3))  # no tile of fold 0 is among them: no leak
    leaky = [*seen, TILES.train_ids[0]]
    d = made("d", seen=leaky)
    with pytest.raises(InputError, match="leak"):
        label([d], TILES, [0], Options(confidence=0.3))


def test_a_half_is_labelled_by_the_run_that_learnt_from_the_other():
    first, second = TILES.test_ids[:14].tolist(), TILES.test_ids[20:].tolist()
    a, b = made("a", 0, tiles=first), made("b", 1, tiles=second)
    label([a, b], TILES, [0], Options(confidence=0.3, most=10_000, halves=True))
    table, masks, _ = labels_of(a)
    probs = some_prob(0), some_prob(1)
    for mask, (name, row) in zip(masks, table.iterrows(), strict=True):
        i = list(TILES.test_ids).index(name)
        learnt = [name in first, name in second]
        assert row["models"].split() == [f"runs/{r}/fold_0" for r, known in zip("ab", learnt, strict=True) if not known]
        makers = [prob[i] for prob, known in zip(probs, learnt, strict=True) if not known]
        np.testing.assert_array_equal(mask, np.mean(np.stack(makers).astype(float), axis=0) > 0.5)
        assert row["confidence"] == pytest.approx(confidence_of(makers), abs=2e-4)
    assert table["models"].nunique() == 3
    both = made("c", 1, tiles=[*first, *second])
    with pytest.raises(InputError, match=f"every run trained on a label of tile {first[0]}: train one with"):
        label([a, both], TILES, [0], Options(halves=True))


def test_for_a_training_on_every_tile_every_fold_labels():
    a, b = made("a", 0), made("b", 1, fold=2)
    assert folds_to_label([a, b], "none") == [None]
    label([a, b], TILES, [None], Options(confidence=0.3, most=10_000))
    table, _, source = labels_of(a, "fold_none")
    assert source["models"] == ["runs/a/fold_0", "runs/b/fold_2"]
    assert set(source["seen"]) == set(TILES.train_ids)
    assert len(table) > 5


def test_runs_that_cannot_label():
    a, b = made("a"), made("b", fold=1)
    assert folds_to_label([a], "all") == folds_to_label([a], "0") == [0]
    whole = made("whole", fold=None)
    assert folds_to_label([whole], "none") == [None]
    for members, text, words in (
        ([a, b], "all", "not every run has finished a fold"),
        ([a], "1", "not every run has finished fold 1"),
        ([a], "9", "0 to 3"),
        ([a, Run("runs/../runs/a")], "all", "named twice"),
        ([whole], "all", "^runs/whole trained on every tile and has no fold that validates: give --fold none$"),
    ):
        with pytest.raises(InputError, match=words):
            folds_to_label(members, text)
    write_json(b / "ensemble.json", {})
    with pytest.raises(InputError, match="is an ensemble"):
        folds_to_label([b], "all")
    for wrong in ({"confidence": 0}, {"confidence": 1.1}, {"most": 0}):
        with pytest.raises(InputError, match=f"--{next(iter(wrong))} must be"):
            Options(**wrong)
    with pytest.raises(InputError, match="--halves: none of the runs was trained on pseudo-labels"):
        label([a], TILES, [0], Options(halves=True))


@pytest.mark.parametrize("fold", [1, None])
def test_what_cannot_be_labelled_is_one_line_and_no_fold_is_written(fold):
    """Fold 0 is sound; the other one is not."""
    made("a")
    a = made("a", fold=fold)
    folds, path, name = [0, fold], a.fold(fold) / "test.npy", "none" if fold is None else fold
    unsure, half = np.full((30, 101, 101), 0.5), np.zeros((30, 101, 101))
    half[:, 60:] = 0.5
    broken = some_prob(0)
    broken[3, 0, 0] = np.nan
    again = rf"has 0\.59: python scripts/pseudo_label.py a{' --fold none' * (fold is None)} --confidence 0\.5$"
    for content, words in (
        (unsure, rf"0 test tiles have a confidence of 0\.9 in fold {name}, the surest has 0\.00: train longer$"),
        (half, again),
        (broken, f"runs/a/fold_{name}/test.npy, id {TILES.test_ids[3]}: not a probability .*predict.py a, or train"),
        (broken[:5], r"\(5, 101, 101\)\) does not fit"),
        (b"cut", "damaged"),
        (None, "predict.py a"),
    ):
        if content is None:
            path.unlink()
        elif isinstance(content, bytes):
            path.write_bytes(path.read_bytes()[:-7])
        else:
            write_probabilities(path, content.shape, [content])
        with pytest.raises(InputError, match=words) as caught:
            label([a], TILES, folds, Options())
        assert "\n" not in str(caught.value)
    other = made("c")
    with pytest.raises(InputError, match="predicts other tiles"):
        label([other], replace(TILES, fingerprint="x"), [0], Options())
    assert not list(Run("runs").path.rglob("rows.csv"))

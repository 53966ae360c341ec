"""What scripts/mosaic.py does: tiles are put together, their seams judged, the table, folds and pictures written."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from kit import runs
from kit.data import folds, mosaic, mosaic_tiers, placement, seams
from kit.data.mosaic_levels import levels, seam_step
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.report import figures
from kit.runs import Run
from kit.scoring import decide

LARGE = 10  # tiles, from which on a mosaic is drawn
N_FOLDS = 5
TRUTH = "demo_mosaic.csv"  # of kit.data.demo

Masks = dict[str, np.ndarray]  # (H, W) bool by id


def put_together(data: Path, tiles: Tiles, run: Run | None = None) -> None:
    """Place the tiles of a data folder, print how sure that is, and write what comes of it beside the folder's cache.

    Written: mosaic.csv (id, mosaic, row, col, confidence), mosaic_folds.csv (id, fold: folds that keep mosaics whole)
    and a picture of each large mosaic, with the masks that `run` predicts. Raises InputError where nothing can be
    written, or `run` has no predictions for these tiles; nothing is then written.
    """
    images, ids = np.concatenate([tiles.train_images, tiles.test_images]), np.r_[tiles.train_ids, tiles.test_ids]
    found, mirrored = (seams.find(images, mirrored=other) for other in (False, True))
    tiers = mosaic_tiers.judge(found, mirrored, tiles.masks)
    placed = mosaic.assemble(mosaic_tiers.kept(found, tiers))
    placed.insert(0, "id", ids[placed["tile"]])
    table = placed[[*placement.COLUMNS, "confidence"]]
    drawn = {"known mask": dict(zip(tiles.train_ids, tiles.masks, strict=True))}
    if run:
        drawn[f"predicted by {run.name}"] = predicted(run, tiles, table)
    written = [placement.write(data, table)]
    print(_tiers_in_words(tiers))
    print(_placed_in_words(placed, len(ids)))
    if len(placed) and (data / TRUTH).exists():
        print(_truth_in_words(data / TRUTH, table))
    written += _write_folds(written[0].with_name("mosaic_folds.csv"), tiles, table)
    written += _draw(written[0].with_name("mosaics"), images, placed, drawn)
    for path in written:
        print(f"written: {path}")


def predicted(run: Run, tiles: Tiles, table: pd.DataFrame) -> Masks:
    """The run's masks of the placed tiles: test tiles under its decision, training tiles out of fold."""
    decide.check_tiles(run, tiles)
    masks: Masks = {}
    if (run / "test.npy").exists():
        masks |= zip(*decide.masks_of_test(run, tiles, table), strict=True)
    if (run / "oof.npy").exists():
        masks |= _out_of_fold(run, tiles, table["id"])
    if not masks:
        raise InputError(f"{run.path} has no predictions: run python scripts/predict.py {run.given}")
    return masks


def _out_of_fold(run: Run, tiles: Tiles, wanted: pd.Series) -> Masks:
    prob, ids = decide.predictions(run, "oof", tiles, f"train {run.name} again")
    decision = decide.decision_of(run)
    head = decide.needed_head(run, "oof", len(ids), decision)
    constant = tiles.constant("train")[decide.rows_of(tiles.train_ids, ids, f"{run / 'oof_ids.csv'}")]
    own = np.flatnonzero(ids.isin(wanted))
    masks = decision.masks(prob[own], constant[own], None if head is None else head[own])
    return dict(zip(ids.iloc[own], masks, strict=True))


def _write_folds(path: Path, tiles: Tiles, table: pd.DataFrame) -> list[Path]:
    """Deal folds of each kind that these tiles can have, print how exposed they are, and keep those by mosaic."""
    path.unlink(missing_ok=True)  # those of an earlier placement
    if not table["id"].isin(tiles.train_ids).any():
        return []
    kinds, refused = deal(tiles, table)
    for reason in refused:
        print(f"left out: {reason}")
    print(_exposure_in_words(exposure(kinds, tiles, table)))
    if "mosaic" not in kinds:
        return []
    runs.write_text(path, kinds["mosaic"].to_csv(index=False))
    return [path]


def deal(tiles: Tiles, table: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Folds (id, fold) of each kind that these tiles can have, and why there are no others: few tiles, no depths."""
    kinds, refused = {}, []
    for by in folds.KINDS:
        try:
            kinds[by] = folds.make(tiles, N_FOLDS, by, placement=table)
        except InputError as error:
            refused.append(str(error))
    return kinds, refused


def exposure(kinds: dict[str, pd.DataFrame], tiles: Tiles, table: pd.DataFrame) -> pd.DataFrame:
    """How near to what is trained on the tiles of each kind of folds lie, and those of the test set.

    Columns: tiles (what they are, text), neighbour and mosaic (shares, see folds.exposure).
    """
    rows = {f"{N_FOLDS} folds by {by}": folds.exposure(dealt, table).iloc[-1] for by, dealt in kinds.items()}
    split = pd.DataFrame({"id": np.r_[tiles.train_ids, tiles.test_ids]})
    split["fold"] = np.repeat([0, 1], [len(tiles.train_ids), len(tiles.test_ids)])
    rows["the test tiles"] = folds.exposure(split, table).iloc[1]
    shares = [(name, float(row["neighbour"]), float(row["mosaic"])) for name, row in rows.items()]
    return pd.DataFrame(shares, columns=["tiles", "neighbour", "mosaic"])


def _tiers_in_words(tiers: pd.DataFrame) -> str:
    """A line for each tier, the surest first."""
    lines = ["confidence   seams  among mirror images  known pairs  masks agree      by chance"]
    for tier in tiers[::-1].to_dict("records"):
        agreement = "{agreement:.3f} +- {error:.3f}  {chance:9.3f}".format_map(tier) if tier["pairs"] > 1 else ""
        counts = "{low:.1f} to {high:.1f}  {seams:>6}  {by_chance:>19}  {pairs:>11}".format_map(tier)
        lines.append(f"{counts}  {agreement:<26}{'' if tier['kept'] else '  refused'}".rstrip())
    return "\n".join(lines)


def _placed_in_words(placed: pd.DataFrame, count: int) -> str:
    sizes = placed.groupby("mosaic").size()
    some = sizes[sizes >= 4]
    return (f"placed: {len(placed):,} of {count:,} tiles in {len(sizes):,} mosaics, {some.sum():,} of them "
            f"in {len(some)} mosaics of 4 or more, the largest of {sizes.max() if len(sizes) else 0}")  # fmt: skip


def _truth_in_words(path: Path, table: pd.DataFrame) -> str:
    """How right the table is, where the places are known: two tiles of one mosaic should lie so there too."""
    truth = placement.load(path)
    together = truth["id"][truth.groupby("mosaic")["id"].transform("size") > 1]
    both = table.merge(truth, on="id", suffixes=("", "_true"))
    shift = [both["row"] - both["row_true"], both["col"] - both["col_true"]]
    alike, size = (both.groupby(by).size() for by in ([both["mosaic"], both["mosaic_true"], *shift], both["mosaic"]))
    right = (alike * (alike - 1)).sum() / (size * (size - 1)).sum()
    return (f"by {path.name}: {together.isin(table['id']).mean():.1%} of the tiles with a neighbour are placed, "
            f"{right:.2%} of the pairs in one mosaic as they truly lie")  # fmt: skip


def _exposure_in_words(shares: pd.DataFrame) -> str:
    lines = [f"{'exposed to what is trained on':<32}by a neighbour  by any tile of the mosaic"]
    lines += [f"{row.tiles:<32}{row.neighbour:>14.1%}{row.mosaic:>27.1%}" for row in shares.itertuples()]
    return "\n".join(
        [*lines, "folds exposed as the test tiles are estimate the leaderboard, those by mosaic new ground"]
    )


def _levels_in_words(images: np.ndarray, placed: pd.DataFrame, gain: np.ndarray, offset: np.ndarray) -> str:
    before = seam_step(images, placed, np.ones(len(placed)), np.zeros(len(placed)))
    after = seam_step(images, placed, gain, offset)
    return f"step across a seam: {before:.1f} grey levels, {after:.1f} with each tile's gain and offset undone"


def _draw(folder: Path, images: np.ndarray, placed: pd.DataFrame, drawn: dict[str, Masks]) -> list[Path]:
    """One picture of each large mosaic; pictures of an earlier placement are deleted. Returns the folder, if any."""
    for old in folder.glob("mosaic_*.png"):
        old.unlink(missing_ok=True)
    if placed.empty:
        return []
    gain, offset = levels(images, placed)
    print(_levels_in_words(images, placed, gain, offset))
    stack = images[placed["tile"]] * gain[:, None, None] + offset[:, None, None]
    wanted = large(placed)
    for number in tqdm(wanted, desc="drawing mosaics", disable=None):
        own = (placed["mosaic"] == number).to_numpy()
        figures.save(picture(number, stack[own], placed[own], drawn), folder / f"mosaic_{number:03}.png")
    return [folder] if len(wanted) else []


def large(placed: pd.DataFrame) -> np.ndarray:
    """The numbers of the mosaics that are worth a picture, the largest first."""
    sizes = placed["mosaic"].value_counts(sort=False).sort_index()
    return sizes.index[sizes >= LARGE].to_numpy()


def picture(
    number: int, stack: np.ndarray, own: pd.DataFrame, drawn: dict[str, Masks], claims: pd.DataFrame | None = None
) -> Figure:
    """One mosaic: its tiles (n, H, W) float with seamless levels, their placement, the masks to outline, and marks
    where mosaic rules speak of a tile (`mosaic_rules.claims`).
    """
    blank = np.zeros(stack.shape[1:], bool)
    masks = {
        label: (own["id"].isin(known).to_numpy(), np.array([known.get(name, blank) for name in own["id"]]))
        for label, known in drawn.items()
    }
    marks = {}
    if claims is not None:
        own_claims = claims[claims["target"].isin(own["id"])]
        marks = {str(rule): own["id"].isin(spoken).to_numpy() for rule, spoken in own_claims.groupby("rule")["target"]}
    title = f"Mosaic {number}: {len(own)} tiles, {masks['known mask'][0].sum()} of them for training"
    return figures.mosaic(stack, own["row"].to_numpy(), own["col"].to_numpy(), masks, title, marks)

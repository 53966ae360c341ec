"""The report's chapter on the data alone: what tiles look like, how much salt they hold, at what depth and where."""

from pathlib import Path

import numpy as np
import pandas as pd

from kit.data import folds, placement
from kit.data.tiles import Tiles
from kit.report import figures, mosaics
from kit.report.figures import Row
from kit.report.figures.style import short
from kit.report.plates import Plate, Section, Table
from kit.scoring.metric import kind_of
from kit.scoring.mosaic_rules import CAP, rule_of

SHOWN = 10  # random tiles
PER_ROW = 6  # tiles of each class and of each kind


def section(tiles: Tiles, data: Path) -> Section:
    """The chapter of the tiles of a data folder.

    Plates that need depths, masks with salt or a placement (mosaic.csv) are left out where there are none. Raises
    InputError for a damaged mosaic.csv.
    """
    placed = placement.read(data)
    parts: list[Plate | Table | None] = [
        _random_tiles(tiles),
        *_coverage(tiles),
        _by_class(tiles),
        _kinds(tiles),
        _positions(tiles),
        _constant(tiles),
        *_depths(tiles),
        _exposure(tiles, placed),
    ]
    return Section("data", "Data", [part for part in parts if part])


def _random_tiles(tiles: Tiles) -> Plate:
    rows = np.random.default_rng(0).permutation(len(tiles.train_ids))[:SHOWN]
    strips = []
    for part in np.array_split(rows, -(-len(rows) // 5)):
        images, masks = tiles.train_images[part], tiles.masks[part]
        strips += [Row("image", images, None, [short(name) for name in tiles.train_ids[part]])]
        strips += [Row("with salt", images, masks, _labels(tiles, part))]
    return Plate("random-tiles", "What do tiles look like?", figures.tile_rows(strips),
                 f"{len(rows)} training tiles drawn at random, each above itself with its salt.")  # fmt: skip


def _coverage(tiles: Tiles) -> list[Plate]:
    coverage, classes = tiles.masks.mean(axis=(1, 2)), folds.coverage_class(tiles.masks)
    return [
        Plate("coverage", "How much of a tile is salt?", figures.coverage_histogram(coverage)),
        Plate("coverage-classes", "How many tiles has each class of coverage?", figures.coverage_classes(classes),
              "Folds by coverage have each class in equal shares."),
        Plate("class-against-coverage", "Which coverage makes which class?",
              figures.class_against_coverage(coverage, classes),
              "One pixel of salt is class 1 already; points are spread up and down within their class."),
    ]  # fmt: skip


def _by_class(tiles: Tiles) -> Plate:
    classes = folds.coverage_class(tiles.masks)
    strips = [_strip(tiles, f"class {number}", classes == number) for number in range(11) if (classes == number).any()]
    return Plate("tiles-by-class", "What do the classes of coverage look like?", figures.tile_rows(strips),
                 f"Up to {PER_ROW} training tiles of each class, drawn at random.")  # fmt: skip


def _kinds(tiles: Tiles) -> Plate | None:
    """The masks that are drawn or scored in another way than most."""
    kinds, rules = kind_of(tiles.masks), rule_of(tiles.masks)
    chosen = {"vertical": kinds == "vertical", "cap": rules == CAP, "tiny": kinds == "tiny"}
    strips = [_strip(tiles, f"{name}\n{which.sum():,} tiles", which) for name, which in chosen.items() if which.any()]
    if not strips:
        return None
    return Plate("kinds", "Which masks are unlike others?", figures.tile_rows(strips),
                 "Vertical: all rows alike, the side of a body of salt. Cap: salt all along the last row; what lies "
                 "beneath is labelled empty. Tiny: at most 100 pixels, where one pixel decides several thresholds; "
                 "an arrow points at them.")  # fmt: skip


def _positions(tiles: Tiles) -> Plate | None:
    if not tiles.masks.any():
        return None
    return Plate("positions", "Where in a tile does salt lie?", figures.mask_positions(tiles.masks))


def _constant(tiles: Tiles) -> Table:
    """Tiles of one grey value in both splits, and whether those with known masks hold salt."""
    rows = []
    for split in ("train", "test"):
        constant = tiles.constant(split)
        salt = f"{tiles.masks[constant].any(axis=(1, 2)).sum():,}" if split == "train" else "not known"
        grey = ", ".join(map(str, np.unique(tiles.images(split)[constant][:, 0, 0])))
        rows.append((split, f"{len(constant):,}", f"{constant.sum():,}", f"{constant.mean():.1%}", grey or "-", salt))
    columns = ["split", "tiles", "constant tiles", "share", "their grey level", "with salt"]
    return Table("constant", "Which tiles show nothing?", pd.DataFrame(rows, columns=columns),
                 "A constant tile has one grey level everywhere; a decision may call all of them empty.")  # fmt: skip


def _depths(tiles: Tiles) -> list[Plate]:
    train, test = tiles.train_depth, tiles.test_depth
    plates = []
    if not (np.isnan(train).all() and np.isnan(test).all()):
        plates += [Plate("depths", "Do training and test tiles come from the same depths?",
                         figures.depth_distributions(train, test))]  # fmt: skip
    if not np.isnan(train).all():
        empty = np.logical_not(tiles.masks.any(axis=(1, 2)))
        plates += [Plate("empty-by-depth", "Does the depth tell whether a tile is empty?",
                         figures.empty_by_depth(train, empty),
                         "Each group has as many tiles; its bars span its depths and Wilson's interval.")]  # fmt: skip
    return plates


def _exposure(tiles: Tiles, table: pd.DataFrame | None) -> Table | None:
    if table is None or not table["id"].isin(tiles.train_ids).any():
        return None
    shares = mosaics.exposure(mosaics.deal(tiles, table)[0], tiles, table)
    for name in ("neighbour", "mosaic"):
        shares[name] = shares[name].map("{:.1%}".format)
    shares.columns = pd.Index(["tiles", "next to a training tile", "in a mosaic with a training tile"])
    return Table("exposure", "How much do validation tiles resemble what was trained on?", shares,
                 "Folds whose tiles are as near to training tiles as the test tiles are estimate the leaderboard, "
                 "those by mosaic new ground.")  # fmt: skip


def _strip(tiles: Tiles, name: str, which: np.ndarray) -> Row:
    """A row of random tiles out of `which` (n,) bool."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(which))[:PER_ROW]
    return Row(name, tiles.train_images[rows], tiles.masks[rows], _labels(tiles, rows))


def _labels(tiles: Tiles, rows: np.ndarray) -> list[str]:
    """Class, coverage and depth of training tiles."""
    classes, areas = folds.coverage_class(tiles.masks[rows]), tiles.masks[rows].sum(axis=(1, 2))
    size, labels = tiles.masks[0].size, []
    for number, area, depth in zip(classes, areas, tiles.train_depth[rows], strict=True):
        share = "empty" if not area else f"{area} px" if area < size / 100 else f"{area / size:.1%}"
        labels.append(f"class {number}, {share}" + ("" if np.isnan(depth) else f"\n{depth:.0f} feet deep"))
    return labels

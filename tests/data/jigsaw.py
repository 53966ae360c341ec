"""Tiles cut from synthetic sections whose places are known, for tests of the jigsaw."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from kit.data import seismic

SIDE = 101


def stretched(tiles):
    """Each tile from 0 to 255 by itself, as on Kaggle: images uint8, and the gain and offset that undo it."""
    low, high = tiles.min((1, 2)), tiles.max((1, 2))
    images = np.round(255 * (tiles - low[:, None, None]) / (high - low)[:, None, None]).astype(np.uint8)
    return images, (high - low) / 255, low


def section(rng, rows, cols, **style):
    """Amplitudes and masks (rows * cols, 101, 101) of a section with salt, tile after tile."""
    shape = rows * SIDE, cols * SIDE
    salt, mask = seismic.diapirs(rng, shape)
    whole = seismic.render(rng, replace(seismic.regional(rng), **style), salt)
    return [part.reshape(rows, SIDE, cols, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE) for part in (whole, mask)]


def lone(rng, count):
    """Amplitudes and masks (count, 101, 101) of tiles from anywhere."""
    grounds = [seismic.outcrop(rng, (SIDE, SIDE)) for _ in range(count)]
    tiles = [seismic.render(rng, seismic.close_up(rng), salt) for salt, _ in grounds]
    return [np.reshape(part, (count, SIDE, SIDE)) for part in (tiles, [mask for _, mask in grounds])]


def puzzle(seed, shapes=((4, 6), (3, 5), (2, 2), (1, 3)), n_lone=40, **style):
    """Shuffled tiles: images, masks, gain, offset, and for each its section (-1 when alone), row and col."""
    rng = np.random.default_rng(seed)
    parts = [*(section(rng, rows, cols, **style) for rows, cols in shapes), lone(rng, n_lone)]
    tiles, masks = (np.concatenate(part) for part in zip(*parts, strict=True))
    places = [(number, row, col) for number, shape in enumerate(shapes) for row, col in np.ndindex(shape)]
    places += [(-1, 0, 0)] * n_lone
    order = rng.permutation(len(places))
    images, gain, offset = stretched(tiles[order])
    number, row, col = np.array(places)[order].T
    return SimpleNamespace(images=images, masks=masks[order].astype(bool), gain=gain, offset=offset,
                           number=number, row=row, col=col)  # fmt: skip

"""Each tile is found again at its place on the sheets."""

import numpy as np
from PIL import Image

from kit.report import sprites

RNG = np.random.default_rng(0)
SMOOTH = np.add.outer(RNG.uniform(0, 120, 130), np.add.outer(np.arange(101), np.arange(101)) / 2)


def cut(folder, names, place) -> np.ndarray:
    """The picture of a tile as the page shows it: RGBA."""
    row, col = divmod(place % 100, 10)
    with Image.open(folder / names[place // 100]) as sheet:
        return np.asarray(sheet.convert("RGBA"))[row * 101 : (row + 1) * 101, col * 101 : (col + 1) * 101].astype(int)


def test_images_are_where_they_belong(tmp_path):
    names = sprites.write(tmp_path, "image", SMOOTH.astype(np.uint8))
    assert len(names) == 2
    for place in (0, 9, 10, 99, 100, 129):
        picture = cut(tmp_path, names, place)
        assert abs(picture[:, :, 0] - SMOOTH[place]).mean() < 2
        assert abs(picture[:, :, 0] - picture[:, :, 2]).max() == 0


def test_an_outline_is_drawn_inside_the_mask(tmp_path):
    masks = np.zeros((3, 101, 101), bool)
    masks[1, 20:60, 30:90] = masks[2] = True
    for layer, width in (("truth", 2), ("mask", 1)):
        names = sprites.write(tmp_path, layer, masks)
        alpha = [cut(tmp_path, names, place)[:, :, 3] for place in range(3)]
        assert (alpha[0] == 0).all()
        np.testing.assert_array_equal(alpha[1] > 0, masks[1])
        line = masks[1].copy()
        line[20 + width : 60 - width, 30 + width : 90 - width] = False
        np.testing.assert_array_equal(alpha[1] == 255, line)
        assert (alpha[2][0] == 255).all()  # the tile's edge ends the mask


def test_the_surer_the_brighter(tmp_path):
    levels = np.linspace(0, 1, 101)
    names = sprites.write(tmp_path, "probability", np.broadcast_to(levels, (1, 101, 101)).astype(np.float16))
    row = cut(tmp_path, names, 0)[50]
    brightness = row[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) >= 0).all()
    assert brightness[0] < 50 < 200 < brightness[-1]
    assert (row[:, 3] == 255).all()

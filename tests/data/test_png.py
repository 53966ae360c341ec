"""A damaged PNG is refused or harmless: never other pixels than those that were written."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from kit.data import png
from kit.errors import InputError
from tests.data import small

SHAPE = (13, 11)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


def test_no_flipped_bit_changes_a_pixel() -> None:
    good = small.png(PIXELS)
    refused = 0
    for place in range(len(good)):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[place] ^= 1 << bit
            try:
                np.testing.assert_array_equal(png.read_image(bytes(damaged), "x.png", SHAPE), PIXELS)
            except InputError:
                refused += 1
    assert refused > 0.9 * 8 * len(good)


def test_a_huge_picture_is_refused_by_its_header_in_one_line():
    """Pillow would warn of it; pytest makes that an error, so it is tried in another process."""
    good = small.png(PIXELS)
    header = good[12:16] + struct.pack(">II", 10_000, 10_000) + good[24:29]
    huge = good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:]
    code = f"from kit.data import png; png.read_image({huge!r}, 'x.png', (13, 11))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "InputError: x.png has 10000 x 10000 pixels" in done.stderr.splitlines()[-1]
    assert "Warning" not in done.stderr


def test_a_cut_file_is_refused_unless_only_the_end_marker_is_lost() -> None:
    good = small.png(PIXELS)
    marker = len(good) - good.index(b"IEND") + 4
    for lost in range(1, len(good) + 1):
        try:
            np.testing.assert_array_equal(png.read_image(good[:-lost], "x.png", SHAPE), PIXELS)
            assert lost <= marker
        except InputError:
            pass


@pytest.mark.parametrize("side", [1000, 12_000, 60_000])
def test_a_huge_picture_is_refused_by_its_header(side: int) -> None:
    """12,000 and 60,000 are where pillow warns and raises."""
    header = struct.pack(">LLBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body)) for kind, body in chunks
    )
    with pytest.raises(InputError, match=r"x\.png"):
        png.read_image(data, "x.png", SHAPE)


def test_16_bit_levels_keep_their_upper_bits() -> None:
    levels = np.random.default_rng(0).integers(0, 65536, SHAPE, np.uint16)
    np.testing.assert_array_equal(
        png.read_image(small.png(levels), "x.png", SHAPE), (levels // 256).astype(np.uint8), strict=True
    )


def test_another_format_under_the_name_of_png_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG")
    with pytest.raises(InputError, match=r"x\.png is no PNG"):
        png.read_image(buffer.getvalue(), "x.png", SHAPE)

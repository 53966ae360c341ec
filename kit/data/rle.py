"""Masks to run-length text and back, in the competition's dialect.

A mask is read column by column, top to bottom; pixels are numbered from 1; salt is written as "start length" pairs
with single blanks between the numbers; an empty mask is the empty text. Every function works on a whole batch at
once, because a submission is 18,000 masks.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kit.data.competition import TGS

_CHUNK = 256  # masks per step: their transposed copy stays in the processor's cache
_BLANKS = " \t\r\n"


class RunLengthError(ValueError):
    """A text that is no mask. `index` counts the texts from 0; `reason` says what is wrong and how to mend it."""

    def __init__(self, index: int, reason: str):
        super().__init__(f"mask {index}: {reason}")
        self.index, self.reason = index, reason


class Runs(NamedTuple):
    """All runs of a batch, in order: the mask that each belongs to, its first pixel (from 0), its length in pixels."""

    mask: np.ndarray
    start: np.ndarray
    length: np.ndarray


def encode(mask: np.ndarray) -> str:
    """Run-length text of one mask (H, W), bool or integer; other than 0 is salt."""
    return encode_many(np.asarray(mask)[None])[0]


def decode(text: str, shape: tuple[int, int] = TGS.tile_shape) -> np.ndarray:
    """The mask (H, W), bool, of one run-length text. ValueError says what is wrong with a bad text."""
    try:
        return decode_many([text], shape)[0]
    except RunLengthError as error:
        raise ValueError(error.reason) from None


def encode_many(masks: np.ndarray) -> list[str]:
    """Run-length texts of masks (N, H, W), bool or integer; other than 0 is salt.

    Floats are refused with ValueError: a probability would pass for salt.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.dtype.kind not in "biu":
        raise ValueError(
            f"masks must be bool or integers of shape (N, H, W), not {masks.dtype} of shape {masks.shape}: "
            "threshold probabilities first, and give a single mask to encode()"
        )
    words = [str(number) for number in range(masks[0].size + 1)] if len(masks) else []
    texts: list[str] = []
    for first in range(0, len(masks), _CHUNK):
        texts += _encode_chunk(masks[first : first + _CHUNK] != 0, words)
    return texts


def _encode_chunk(masks: np.ndarray, words: list[str]) -> list[str]:
    count, height, width = masks.shape
    size = height * width
    # One background pixel before and after each mask, so that every run has both of its edges inside the row.
    padded = np.zeros((count, size + 2), bool)
    padded[:, 1:-1] = masks.transpose(0, 2, 1).reshape(count, size)
    owner, edges = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), size + 1)
    numbers = edges.copy()
    numbers[1::2] -= edges[::2]
    numbers[::2] += 1
    tokens = [words[number] for number in numbers.tolist()]
    stops = np.searchsorted(owner, np.arange(count), side="right").tolist()
    return [" ".join(tokens[start:stop]) for start, stop in zip([0, *stops], stops, strict=False)]


def decode_many(texts: Sequence[str], shape: tuple[int, int] = TGS.tile_shape) -> np.ndarray:
    """The masks (N, H, W), bool, of run-length texts. RunLengthError (a ValueError) names the first bad text."""
    height, width = shape
    texts = list(texts)
    runs = parse(texts, shape)
    masks = np.zeros((len(texts), height, width), bool)
    # Mark the pixels where salt begins and those where it has ended, then walk down the columns flipping at each
    # mark. Runs that touch put two marks on one pixel, which cancel: hence two assignments by exclusive or.
    for edge in (runs.start, runs.start + runs.length):
        inside = edge < height * width
        column, row = np.divmod(edge[inside], height)
        masks[runs.mask[inside], row, column] ^= True
    for first in range(0, len(masks), _CHUNK):
        _fill(masks[first : first + _CHUNK])
    return masks


def _fill(marks: np.ndarray) -> None:
    """Turn marks (n, H, W) into masks in place: salt is where an odd number of marks has been passed."""
    for row in range(1, marks.shape[1]):
        marks[:, row] ^= marks[:, row - 1]
    passed = np.bitwise_xor.accumulate(marks[:, -1], axis=1)  # parity at the foot of each column
    marks[:, :, 1:] ^= passed[:, None, :-1]


def parse(texts: Sequence[str], shape: tuple[int, int] = TGS.tile_shape) -> Runs:
    """Check run-length texts and give their runs, without painting them.

    RunLengthError names the first text that is no mask of this shape: an odd count of numbers, something other than
    whole numbers, a run that is empty, leaves the tile, overlaps the one before it or comes out of order.
    """
    size, texts = shape[0] * shape[1], list(texts)
    runs = _parse_all(texts, size)
    if runs is None:
        index = bisect_left(range(len(texts)), True, key=lambda last: _parse_all(texts[: last + 1], size) is None)
        raise RunLengthError(index, _fault(texts[index], size))
    return runs


def _parse_all(texts: Sequence[str], size: int) -> Runs | None:
    """The runs of all texts in one pass, or None as soon as anything is wrong anywhere (`_fault` then says what)."""
    if not all(isinstance(text, str) for text in texts):
        return None
    joined = " ".join(texts)
    if not joined.isascii() or joined.encode().translate(None, delete=b"0123456789" + _BLANKS.encode()):
        return None
    # A -1 closes each text; none can stand inside one, for a minus has just been ruled out.
    numbers = np.fromstring("".join(text + " -1 " for text in texts), dtype=np.int64, sep=" ")
    closing = np.flatnonzero(numbers == -1)
    counts = np.diff(closing, prepend=-1) - 1
    if (counts % 2).any():
        return None
    numbers = np.delete(numbers, closing)
    start, length = numbers[::2] - 1, numbers[1::2]
    mask = np.repeat(np.arange(len(texts)), counts // 2)
    # Compared so that nothing overflows: numbers too long for 64 bits have been cut to the largest.
    if ((start < 0) | (length < 1) | (length > size) | (start > size - length)).any():
        return None
    if ((start[1:] < start[:-1] + length[:-1]) & (mask[1:] == mask[:-1])).any():
        return None
    return Runs(mask, start, length)


def _fault(text: Any, size: int) -> str:
    """What is wrong with a text that is no mask."""
    if not isinstance(text, str):
        return f"{text!r} is no text: an empty mask is '' (with pandas, read with keep_default_na=False)"
    tokens = re.findall(f"[^{_BLANKS}]+", text)
    for token in tokens:
        if not re.fullmatch(r"-?[0-9]{1,18}", token):
            return f"{token[:20]!r} is no number of pixels: write whole numbers only, and an empty mask as nothing"
    if len(tokens) % 2:
        return f"{len(tokens)} numbers, which is odd: write runs as pairs of start and length"
    previous, end = "", 1
    for start, length in zip(map(int, tokens[::2]), map(int, tokens[1::2]), strict=True):
        run = f"the run '{start} {length}'"
        if start < 1:
            return f"{run} starts before pixel 1: pixels are numbered from 1"
        if length < 1:
            return f"{run} has no pixels: leave it out, lengths begin at 1"
        if start + length - 1 > size:
            return f"{run} ends past the last pixel, {size}: cut it, and check that the mask has the tile's size"
        if start < end:
            return f"{run} overlaps or precedes {previous}: sort the runs by start and join those that overlap"
        previous, end = run, start + length
    raise AssertionError(f"{text!r} is a mask")

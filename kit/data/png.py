"""One PNG becomes one tile or one mask, or a message that says why it cannot be one."""

import io
import warnings

import numpy as np
from PIL import Image

from kit.errors import InputError

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # sizes are looked at before pixels
SALT_VALUES = (1, 255, 65535)  # of a 1-bit (or hand-made), an 8-bit and a 16-bit mask


def read_image(data: bytes, where: str, shape: tuple[int, int], mixed: bool = False) -> np.ndarray:
    """The grey levels of a tile, `shape` uint8. 16-bit levels keep their upper 8 bits; transparency is ignored.

    `mixed` tells that tiles read before had the right shape. Raises InputError, as read_mask does.
    """
    grey = _grey(data, where, shape, mixed)
    if grey.dtype == np.uint8:
        return grey
    if 0 < grey.max() < 256:
        raise InputError(f"{where} is a 16-bit image with 8-bit values, nearly black: save it as 8 bits, or restore it")
    return (grey >> 8).astype(np.uint8)


def read_mask(data: bytes, where: str, shape: tuple[int, int]) -> np.ndarray:
    """A mask, `shape` bool. A pixel is salt where it has the one value other than 0."""
    grey = _grey(data, where, shape, mixed=True)
    top = int(grey.max())
    strange = grey[(grey != 0) & (grey != top)] if top in (0, *SALT_VALUES) else grey[grey == top]
    if strange.size:
        raise InputError(
            f"{where}: a mask with the value {strange[0]}, not only 0 and one of {', '.join(map(str, SALT_VALUES))}: "
            "write 0 for background and 255 for salt, or restore the file"
        )
    return grey == top if top else np.zeros(shape, bool)


def _grey(data: bytes, where: str, shape: tuple[int, int], mixed: bool) -> np.ndarray:
    """The one channel of a picture, uint8 or, from 16-bit files, a wider integer."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            size = picture.size
            picture.verify()  # all checksums; decoding alone lets some damage pass
        _check_size(size, where, shape, mixed)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.mode in ("L", "I", "I;16"):
                return np.asarray(picture)
            colours = np.asarray(picture.convert("RGBA"))[..., :3]
    except InputError:
        raise
    except Exception as error:  # what pillow raises depends on the byte that is damaged, IndexError too
        raise InputError(f"{where} is no PNG, or a damaged one ({_reason(error)}): restore the file") from None
    if (colours != colours[..., :1]).any():
        row, column = np.argwhere((colours != colours[..., :1]).any(-1))[0]
        raise InputError(
            f"{where} is a colour image: its channels differ, first at row {row}, column {column}; "
            "seismic tiles are grey: restore the file, or save it with equal channels"
        )
    return colours[..., 0]


def _check_size(size: tuple[int, int], where: str, shape: tuple[int, int], mixed: bool) -> None:
    """Before decoding, so that a huge picture costs nothing."""
    width, height = size
    if (height, width) != shape:
        found, wanted = f"{height} x {width} pixels", f"{shape[0]} x {shape[1]}"
        raise InputError(
            f"{where} has {found}, but the files before it have {wanted} (mixed sizes): restore or remove it"
            if mixed
            else f"{where} has {found}, but this competition's tiles have {wanted}: restore the original files"
        )


def _reason(error: Exception) -> str:
    """Pillow names the buffer that it could not identify, which tells nobody anything."""
    return "not recognised" if isinstance(error, Image.UnidentifiedImageError) else str(error)

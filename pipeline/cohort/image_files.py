"""One PNG, JPEG or TIFF file as pixels of one size; whatever is wrong with a file is one clear refusal."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from data_contracts.params import ImageParams
from data_contracts.reasons import ReasonCode

#: endings of the files that are opened, in lower case
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
#: Other formats are never tried: some start programs of their own.
_FORMATS = ("PNG", "JPEG", "TIFF")
MAX_FILE_BYTES = 256 * 2**20
#: Beyond any radiograph (about 5000 x 6000); a file of some hundred bytes may claim far more.
MAX_PIXELS = 2**25
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


class ImageRefusedError(Exception):
    """A file that cannot be used: `reason` and one line of `detail`, without its name."""

    def __init__(self, reason: ReasonCode, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class ImagePixels:
    """What a file shows.

    plain: uint8 (C, S, S), C = 3 (1 where grey was asked for); None for an image deeper than 8 bits.
    deep: float32 (S, S) in the values of the file, NaN where there is padding; None for 8 bits.
    coloured: the three channels differ.
    padded: a part of the square lies outside the image.
    """

    plain: NDArray[np.uint8] | None
    deep: NDArray[np.float32] | None
    coloured: bool
    padded: bool


def read_image(body: bytes, params: ImageParams) -> ImagePixels:
    """The pixels of a file with these bytes, turned upright by its EXIF and brought to `params.size_px` a side.

    Transparency shows black behind it; a palette and CMYK become RGB.

    Raises
    ------
    ImageRefusedError: not an image, torn, too large, more than one image, or values that are no numbers.
    """
    image = _decoded(body)
    size = params.size_px
    if image.mode in _DEEP:
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ImageRefusedError(ReasonCode.PIXEL_DECODE_FAILED, "holds values that are no numbers")
        canvas = np.full((size, size), np.nan, dtype=np.float32)
        padded = _place(np.asarray(_resized(Image.fromarray(values), params)), canvas)
        return ImagePixels(None, canvas, coloured=False, padded=padded)
    flat = _without_transparency(image).convert("L" if params.channels == "grey" else "RGB")
    pixels = np.asarray(_resized(flat, params))
    channels = np.moveaxis(pixels, 2, 0) if pixels.ndim == 3 else pixels[None]
    plain = np.zeros((len(channels), size, size), dtype=np.uint8)
    padded = _place(channels, plain)
    return ImagePixels(plain, None, coloured=bool((plain != plain[:1]).any()), padded=padded)


def _decoded(body: bytes) -> Image.Image:
    if not body:
        raise ImageRefusedError(ReasonCode.UNREADABLE, "is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, which nobody reads
            return _opened(body)
    except ImageRefusedError:
        raise
    except UnidentifiedImageError:
        raise ImageRefusedError(ReasonCode.NOT_AN_IMAGE, "is no PNG, JPEG or TIFF image") from None
    except Image.DecompressionBombError:
        raise ImageRefusedError(ReasonCode.IMAGE_TOO_LARGE, "claims more pixels than are safe to open") from None
    except Exception as error:  # a damaged file makes Pillow's readers fail in a dozen ways
        raise ImageRefusedError(
            ReasonCode.PIXEL_DECODE_FAILED, f"cannot be decoded to its end ({type(error).__name__})"
        ) from None


def _opened(body: bytes) -> Image.Image:
    with Image.open(io.BytesIO(body), formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageRefusedError(ReasonCode.IMAGE_TOO_LARGE, f"has {image.width} x {image.height} pixels")
        try:
            image.seek(1)
        except EOFError:
            image.seek(0)
        else:
            raise ImageRefusedError(ReasonCode.NOT_AN_IMAGE, "holds more than one image; a file is one slice")
        image.load()
        return ImageOps.exif_transpose(image)


def _without_transparency(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    clear = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, (0, 0, 0, 255)), clear)


def _resized(image: Image.Image, params: ImageParams) -> Image.Image:
    size, (width, height) = params.size_px, image.size
    if params.resize == "never":
        return image
    wanted = (size, size)
    if params.resize == "fit":
        scale = size / max(width, height)
        wanted = (max(round(width * scale), 1), max(round(height * scale), 1))
    return image if wanted == image.size else image.resize(wanted, Image.Resampling.BILINEAR)


def _place(pixels: NDArray[np.generic], canvas: NDArray[np.generic]) -> bool:
    """Put the middle of `pixels` (..., h, w) into the middle of `canvas` (..., S, S); whether some of it stays free."""
    inside, outside = [], []
    for have, want in zip(pixels.shape[-2:], canvas.shape[-2:], strict=True):
        length = min(have, want)
        inside.append(slice((have - length) // 2, (have - length) // 2 + length))
        outside.append(slice((want - length) // 2, (want - length) // 2 + length))
    canvas[..., outside[0], outside[1]] = pixels[..., inside[0], inside[1]]
    return any(have < want for have, want in zip(pixels.shape[-2:], canvas.shape[-2:], strict=True))

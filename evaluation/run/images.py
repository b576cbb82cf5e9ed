"""An image of the data set as evaluation sees it: decoded, or why not. A data set that is gone is neither."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from infer.data.dataset import Item
from infer.pixels.decode import ImageError, Pixels, decode
from infer.spec import Exif

from ..errors import RunError
from ..scores.table import OK

GONE = (errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENODEV)
"""How a file system says that it is no longer there."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image of the data set for each way of treating EXIF, or why there is none."""

    item: Item
    status: str
    images: dict[str, Pixels]
    sha256: str = ""  # of the file's bytes, empty where they cannot be read


def read_image(item: Item, exifs: Sequence[Exif], strict: bool) -> Decoded:
    """Reads and decodes one image. Raises RunError where `strict`, or where the file is gone, which is no bad image."""
    sha256 = ""
    try:
        data = item.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        return Decoded(item, OK, {exif: decode(data, exif=exif, name=item.name) for exif in exifs}, sha256)
    except (ImageError, OSError) as error:
        if isinstance(error, OSError) and error.errno in GONE and not item.path.is_symlink():
            raise RunError(
                f"{item.path}: {error.strerror}, though it was there when the run began: bring the data set back and "
                "go on with --resume"
            ) from None
        reason = str(error) if isinstance(error, ImageError) else f"{item.name}: cannot be read ({error.strerror})"
        if strict:
            raise RunError(f"{reason} (--strict stops at the first unreadable image)") from None
        return Decoded(item, reason, {}, sha256)

"""What the embedded data sets share: the ten classes, a folder that is written whole or not at all, images, a .mat."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from infer.errors import Refused
from infer.processes.owned import remove_ours

WNIDS = tuple(f"n9900000{digit}" for digit in range(10))
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DEVKIT_ORDER = (7, 2, 9, 0, 4, 1, 8, 5, 3, 6)
"""DEVKIT_ORDER[i] is the digit whose id in the devkit is i + 1; like the original's, the ids are in no sorted order."""

QUALITY = 92
SPECIAL = {3: "grey", 5: "cmyk", 8: "png", 13: "exif"}
"""Numbers of the images of each set that are stored in an unusual way."""
EXIF_ORIENTATION, ROTATED_90 = 0x0112, 6

MARK = ".verydeep-miniature"
"""A file that says that an unfinished folder is of this command."""
OURS = re.compile(
    r"\.verydeep-miniature|ILSVRC2012_devkit_t12/data/[^/]+|ILSVRC2014_devkit/data/([^/]+|det_lists/[a-z0-9_]+\.txt)|"
    r"ILSVRC2012_(img|bbox)_(train|val)(_v[23])?/(.+/)?(n|ILSVRC2012_val_)[0-9_]+\.(JPEG|xml)|"
    r"ILSVRC201[34]_DET_(bbox_)?(train|val)/(.+/)?(n|ILSVRC201[234]_(train|val)_)[0-9_]+\.(JPEG|xml)"
)
"""Names of what such a folder holds."""


def check_empty(directory: Path, shown: Path) -> None:
    """Raises Refused where a folder, called `shown` by its user, holds anything but what a killed run left."""
    if (directory / MARK).is_file():  # a kill came just before its end
        remove_ours(directory, OURS, Refused)
    if directory.exists() and any(directory.iterdir() if directory.is_dir() else [directory]):
        raise Refused(f"{shown} exists and is not an empty folder: remove it or name another")


@contextlib.contextmanager
def whole_folder(directory: Path) -> Iterator[Path]:
    """A folder to write to that becomes `directory`, which is not there or empty, when the block ends without error.

    Raises Refused where its place under another name holds what is not ours.
    """
    unfinished = directory.with_name(directory.name + ".unfinished")
    if unfinished.exists() and not (unfinished / MARK).is_file():
        raise Refused(f"{unfinished}: is not of ours, and would be removed: move it away, or name another folder")
    remove_ours(unfinished, OURS, Refused)
    unfinished.mkdir(parents=True)
    (unfinished / MARK).touch()

    yield unfinished

    if directory.exists():
        directory.rmdir()  # known to be empty
    unfinished.rename(directory)
    (directory / MARK).unlink()


def write_image(path: Path, pixels: NDArray[np.uint8], special: str | None) -> None:
    """Writes an image, [h, w, 3] RGB, as one of SPECIAL, or as a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)

    if special == "png":
        image.save(path, "PNG")
    elif special == "exif":
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = ROTATED_90
        image.save(path, "JPEG", quality=QUALITY, exif=exif)
    else:
        mode = {"grey": "L", "cmyk": "CMYK"}.get(special or "", "RGB")
        image.convert(mode).save(path, "JPEG", quality=QUALITY)


def write_synsets(path: Path, fields: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
    """Writes `synsets`, a column of structs with these fields, as MATLAB would."""
    synsets = np.zeros((len(rows), 1), dtype=[(name, object) for name in fields])
    for number, row in enumerate(rows):
        synsets[number, 0] = row

    # scipy stamps the file with the time of writing; the header's text field is 116 bytes of free form
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"synsets": synsets}, do_compression=True)
    raw = path.read_bytes()
    path.write_bytes(b"MATLAB 5.0 MAT-file, verydeep miniature".ljust(116) + raw[116:])

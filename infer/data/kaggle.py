"""ILSVRC-2012 as Kaggle distributes it (imagenet-object-localization-challenge): where its folders and lists are.

ILSVRC/Data/CLS-LOC/{train/WNID,val,test}, with LOC_val_solution.csv and LOC_synset_mapping.txt beside ILSVRC.
"""

from __future__ import annotations

from pathlib import Path

from ..files import read_file
from .folder import DatasetError, Folder

SOLUTION = "LOC_val_solution.csv"
WORDS = "LOC_synset_mapping.txt"
IMAGES = ("ILSVRC", "Data", "CLS-LOC")
LARGEST_BYTES = 1 << 24
"""Bytes of the list of words; Kaggle's has 32,000."""
ABOVE = len(IMAGES) + 1
"""Folders from the validation images up to the lists."""


def enter(top: Folder) -> tuple[Folder, str]:
    """(the folder of train/ and val/, its path below `top` to put before names): `top` itself where it is not Kaggle's.

    `top` may be any of the folders above them. Raises DatasetError.
    """
    for place in range(len(IMAGES)):
        folder, below = top, IMAGES[place:]
        for name in below:
            if name not in folder.folders:
                break
            folder = folder.folder(name)
        else:
            return folder, "/".join(below) + "/"
    return top, ""


def solution_near(folder: Folder) -> Path | None:
    """The list of labels in a folder or above it."""
    return _near(folder.path, SOLUTION)


def words_near(path: Path) -> dict[str, str]:
    """Words of each WNID, by the list in a folder or above it; none without the list. Raises DatasetError."""
    found = _near(path, WORDS)
    if found is None:
        return {}
    try:
        lines = read_file(found, LARGEST_BYTES, DatasetError).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{found}: cannot be read ({error})") from None
    pairs = (line.strip().partition(" ") for line in lines)
    return {wnid: words.strip() for wnid, _, words in pairs if wnid}


def _near(path: Path, name: str) -> Path | None:
    here = path.absolute()
    for folder in (here, *here.parents[:ABOVE]):
        if (folder / name).is_file():
            return folder / name
    return None

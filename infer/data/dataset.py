"""The only reader of labelled data sets: ILSVRC-2012 as distributed, or class folders; unpacked, in tar archives, or
packed into shards (WebDataset, Parquet).

It knows names, labels and where the bytes lie; it decodes nothing. A label is the position of the WNID (or folder
name) in sorted order; devkit ids, which follow another order, are mapped through meta.mat. docs/data.md has the rules.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from . import parquet, webdataset
from .devkit import DEVKIT, GROUND_TRUTH, META, Synsets, read_synsets, read_validation_ids
from .folder import TAR, Folder, open_folder
from .folder import DatasetError as DatasetError
from .shards import PARQUET, find_shards, label_samples
from .stored import SUFFIXES, File, Stored, is_image_name, printable
from .webdataset import is_webdataset

TRAIN = "ILSVRC2012_img_train"
VAL = "ILSVRC2012_img_val"

ILSVRC2012_FIRST_LABELS = (65, 970, 230, 809, 516, 57)
"""Sorted-WNID labels of the first six validation images (Caffe's val.txt), by which the real set is known."""

Split = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image."""

    name: str  # path below the data set's root, with forward slashes, as one harmless line
    label: int  # index into Dataset.classes, -1 where unknown
    file: Stored

    @property
    def path(self) -> Path:
        """The file of the image, or of the archive that it is in."""
        return self.file.path

    def read_bytes(self) -> bytes:
        return self.file.read_bytes()


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images in the order of their names.

    listing_digest: over names, labels and sizes in bytes, wherever the images lie.

    numbered: labels are numbers in the order of the model's own classes, whatever `classes` calls them.
    """

    root: Path
    items: Sequence[Item]
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    is_ilsvrc2012_val: bool
    devkit_order: tuple[int, ...] = ()  # ILSVRC2012_ID - 1 of each class, where there is a devkit that has them
    numbered: bool = False

    @property
    def listing_digest(self) -> str:
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for item in self.items:
            digest.update(f"\n{_last_part(item)}\t{item.label}\t{item.file.size_bytes()}".encode())
        return digest.hexdigest()[:16]


def open_dataset(root: Path, split: Split = "val", *, limit: int | None = None) -> Dataset:
    """The images of one split, the first `limit` of them. Raises DatasetError.

    root: ILSVRC-2012 (ILSVRC2012_img_val flat or in WNID folders, ILSVRC2012_img_train, the devkit), or class
    folders, directly or below train/ and val/. A tar archive stands for the folder of its name, at any of these
    places; ILSVRC2012_img_val.tar or ILSVRC2012_img_train.tar itself takes the devkit from beside it. Or WebDataset's
    or Parquet's shards: a folder of them, one, or a pattern.
    """
    shards = _shards(root, split)
    if shards:
        return _limited(_open_packed(shards, root), limit)

    top = open_folder(root)
    if root.stem in (TRAIN, VAL) and root.suffix == TAR:
        beside = open_folder(root.parent)
        names = (DEVKIT, f"{DEVKIT}{TAR}", f"{DEVKIT}{TAR}.gz")
        files = {name: file for name, file in beside.files.items() if name in names}
        folders = {name: folder for name, folder in beside.folders.items() if name in names}
        top = Folder(beside.path, files, {**folders, root.stem: top})

    if top.holds(TRAIN) or top.holds(VAL):
        dataset = _open_ilsvrc(top, root, split)
    elif top.holds(split):
        dataset = _open_class_folders(top.folder(split), root, f"{split}/")
    else:
        dataset = _open_class_folders(top, root, "")
    if not dataset.items:
        raise DatasetError(f"{root}: no {split} images found (endings {', '.join(SUFFIXES)})")
    return _limited(dataset, limit)


def has_validation(root: Path) -> bool:
    """True where a data set has images for validation beside those to train on, good or not. Raises DatasetError."""
    shards = _shards(root, "val")
    if shards:
        return shards != _shards(root, "train")
    if root.is_file() and root.stem in (TRAIN, VAL):
        return False
    top = open_folder(root)
    return top.holds(VAL) or top.holds("val")


def _shards(root: Path, split: Split) -> list[Path]:
    """The shards of a data set that is packed into shards; an empty list for any other data set."""
    shards = find_shards(root, split)
    return shards if shards and (shards[0].suffix == PARQUET or is_webdataset(shards[0])) else []


def _limited(dataset: Dataset, limit: int | None) -> Dataset:
    if limit is None or limit >= len(dataset.items):
        return dataset
    return replace(dataset, items=dataset.items[:limit], is_ilsvrc2012_val=False)


def _open_packed(shards: Sequence[Path], root: Path) -> Dataset:
    """The data set of some shards: samples in the order of their names, however they are cut into shards."""
    kind = parquet if shards[0].suffix == PARQUET else webdataset
    samples = [sample for shard in shards for sample in kind.read_samples(shard)]
    names = parquet.class_names(shards) if kind is parquet else ()

    if len({sample.name for sample in samples}) < len(samples):
        if kind is webdataset:
            twice = next(name for name, count in Counter(sample.name for sample in samples).items() if count > 1)
            raise DatasetError(f"{root}: {twice} is there twice, expected each name in one shard")
        samples = [sample._replace(name=f"{number:08d}/{sample.name}") for number, sample in enumerate(samples)]
    samples.sort(key=lambda sample: sample.name.split("/"))
    if not samples:
        raise DatasetError(f"{root}: no images in {len(shards)} shards (endings {', '.join(SUFFIXES)})")

    labels = label_samples(samples, root, names)
    items = [Item(sample.name, number, sample.file) for sample, number in zip(samples, labels.labels, strict=True)]
    is_val = _is_ilsvrc2012_val(items)
    return Dataset(root, items, labels.classes, labels.classes, is_ilsvrc2012_val=is_val, numbered=labels.numbered)


def image_files(folder: Path) -> list[Path]:
    """Every image below a folder, labelled or not, by its ending and in order."""
    return sorted(p for p in folder.rglob("*") if is_image_name(p.name) and p.is_file())


def _open_ilsvrc(top: Folder, root: Path, split: Split) -> Dataset:
    name = TRAIN if split == "train" else VAL
    if not top.holds(name):
        raise DatasetError(f"{root}: no {name} folder or {name}{TAR}")

    folder = top.folder(name)
    images = folder.images()
    if split == "train" or folder.folders or (folder.classes() and not images):
        dataset = _open_class_folders(folder, root, f"{name}/")
        items, classes, synsets = dataset.items, dataset.classes, read_synsets(top)
    else:
        items, classes, synsets = _label_flat(images, top, root)

    by_name = sorted(items, key=_last_part)
    ids = {wnid: i for i, wnid in synsets.wnid_of_id.items()}
    return Dataset(
        root,
        by_name if split == "val" else items,
        classes,
        tuple(synsets.words.get(c, c) for c in classes),
        is_ilsvrc2012_val=split == "val" and _is_ilsvrc2012_val(items),
        devkit_order=tuple(ids[c] - 1 for c in classes) if ids.keys() >= set(classes) else (),
    )


def _label_flat(images: Mapping[str, File], top: Folder, root: Path) -> tuple[list[Item], tuple[str, ...], Synsets]:
    """(items, classes, synsets) of flat validation images, whose labels the devkit has in the order of their names."""
    ids, synsets = read_validation_ids(top), read_synsets(top)
    classes = tuple(sorted(synsets.wnid_of_id.values()))
    index = {wnid: i for i, wnid in enumerate(classes)}

    if len(ids) != len(images):
        raise DatasetError(
            f"{root}: {len(images)} validation images, but {len(ids)} labels in {GROUND_TRUTH}: one is incomplete"
        )
    try:
        labels = [index[synsets.wnid_of_id[int(line)]] for line in ids]
    except (KeyError, ValueError) as error:
        raise DatasetError(f"{GROUND_TRUTH}: {error} is not the id of a leaf in {META}") from None

    named = zip(images.items(), labels, strict=True)
    return [Item(f"{VAL}/{printable(name)}", label, file) for (name, file), label in named], classes, synsets


def _open_class_folders(folder: Folder, root: Path, prefix: str) -> Dataset:
    names = folder.classes()
    if not names:
        raise DatasetError(f"{folder.path}: neither ILSVRC-2012 ({VAL}, {DEVKIT}) nor class folders found")

    classes = tuple(map(printable, names))
    items = []
    for label, name in enumerate(names):
        for image, file in folder.folder(name).images().items():
            items.append(Item(f"{prefix}{classes[label]}/{printable(image)}", label, file))
    return Dataset(root, items, classes, classes, is_ilsvrc2012_val=_is_ilsvrc2012_val(items))


def _is_ilsvrc2012_val(items: Sequence[Item]) -> bool:
    if len(items) != 50_000:
        return False
    return tuple(item.label for item in sorted(items, key=_last_part)[:6]) == ILSVRC2012_FIRST_LABELS


def _last_part(item: Item) -> str:
    return item.name.rpartition("/")[2]

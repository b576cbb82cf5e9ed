"""The only reader of labelled data sets: ILSVRC-2012 as distributed, or class folders; unpacked, in tar archives, or
packed into shards (WebDataset, Parquet).

It knows names, labels and where the bytes lie; it decodes nothing. A label is the position of the WNID (or folder
name) in sorted order; devkit ids, which follow another order, are mapped through meta.mat. docs/data.md has the rules.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from . import parquet, webdataset
from .folder import SUFFIXES, TAR, File, Folder, Sample, Stored, is_image_name, open_folder, printable
from .folder import DatasetError as DatasetError
from .tar import TarError, list_members
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


# Shards, and what their labels mean

PARQUET = ".parquet"
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
"""Words in the names of shards that say their split; the first that is there counts."""
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
MOST_SHARDS = 1_000_000
MOST_CLASSES = 100_000
"""Classes that are known by their numbers; the whole of ImageNet has 21,841."""
WNID = re.compile(r"n\d{8}")


class Labels(NamedTuple):
    """Labels of a packed data set and the classes that they stand for.

    numbered: labels are numbers in the order of the model's own classes; `classes` are then the data set's names for
    them, if any, or the numbers.
    """

    labels: list[int]
    classes: tuple[str, ...]
    numbered: bool


def find_shards(root: Path, split: Literal["train", "val"]) -> list[Path]:
    """The shards of a split below a folder, in a file, or of a pattern ({000..049}, {a,b}, *).

    There are none where `root` is something else. Raises DatasetError for a pattern that no file matches.
    """
    if root.is_file():
        return [root] if root.suffix in (PARQUET, TAR) else []

    if root.is_dir():
        for folder in (*(root / word for word in SPLITS[split]), root, root / "data"):
            if not folder.is_dir():
                continue
            names = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
            for suffix in (PARQUET, TAR):
                found = [path for path in names if path.suffix == suffix and path.is_file()]
                if found:
                    return _of_split(found, split)
        return []

    pattern = str(root)
    if not any(character in pattern for character in "{*?["):
        return []
    paths = [Path(path) for each in _expand(pattern) for path in (sorted(glob.glob(each)) or [each])]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise DatasetError(f"{root}: no such file as {absent[0]}: expected shards like data/val-{{000..049}}.tar")
    return paths


def _of_split(paths: list[Path], split: Literal["train", "val"]) -> list[Path]:
    """Shards whose names say the split, or all where no name says any."""
    words = [set(re.split(r"[-_.]", path.name.lower())) for path in paths]
    for word in SPLITS[split]:
        own = [path for path, own_words in zip(paths, words, strict=True) if word in own_words]
        if own:
            return own
    said = any(word in own for own in words for every in SPLITS.values() for word in every)
    return [] if said else paths


def _expand(pattern: str) -> Iterator[str]:
    """Braces as a shell expands them. Raises DatasetError for more than MOST_SHARDS files."""
    found = BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    first, last, words = found.groups()
    if words is None and int(last) - int(first) >= MOST_SHARDS:
        raise DatasetError(f"{pattern}: more than {MOST_SHARDS} shards")
    choices = words.split(",") if words else (f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1))
    for choice in choices:
        yield from _expand(pattern[: found.start()] + choice + pattern[found.end() :])


def label_samples(samples: Sequence[Sample], root: Path, names: Sequence[str] = ()) -> Labels:
    """Labels of all samples: numbers as they are, names as their place in sorted order.

    `names`, if any, are the data set's own for its numbers. Where they are WNIDs, by which every model means the same,
    the numbers are not the model's. Raises DatasetError where there are numbers and names, or a number without a class.
    """
    kinds = {type(sample.label) for sample in samples if sample.label is not None}
    if len(kinds) > 1:
        one = next(sample for sample in samples if isinstance(sample.label, str))
        raise DatasetError(
            f"{root}: labels are numbers and names (e.g. {one.label!r} of {one.name}), expected one kind"
        )

    if kinds == {str}:
        classes = tuple(sorted({str(sample.label) for sample in samples if sample.label is not None}))
        index: dict[int | str | None, int] = {name: number for number, name in enumerate(classes)}
        return Labels([index.get(sample.label, -1) for sample in samples], classes, numbered=False)

    numbers = [-1 if sample.label is None else int(sample.label) for sample in samples]
    count = len(names) or min(max([*numbers, 0]) + 1, MOST_CLASSES)
    for sample, number in zip(samples, numbers, strict=True):
        if not -1 <= number < count:
            raise DatasetError(f"{root}: label {number} of {sample.name}, expected 0 to {count - 1}, or -1 for unknown")
    numbered = not (names and all(map(WNID.fullmatch, names)))
    return Labels(numbers, tuple(names) or tuple(map(str, range(count))), numbered)


# ILSVRC-2012's devkit: a folder, the .tar.gz that it is distributed as, or a .tar

DEVKIT = "ILSVRC2012_devkit_t12"
META = "meta.mat"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT_BYTES = 64 << 20
"""Bytes of the devkit unpacked, at most; the original's .tar.gz has 2.5 MB."""


@dataclass(frozen=True, slots=True)
class Synsets:
    """WNID of each leaf's ILSVRC2012_ID, and words of each WNID."""

    wnid_of_id: dict[int, str]
    words: dict[str, str]


def read_synsets(root: Folder) -> Synsets:
    """Synsets of the devkit in a folder; none where there is no devkit. Raises DatasetError."""
    files = read_devkit(root, (META, GROUND_TRUTH).__contains__)
    return _read_meta(files[META], root.path / DEVKIT / "data" / META) if META in files else Synsets({}, {})


def read_validation_ids(root: Folder) -> list[str]:
    """ILSVRC2012_ID of each validation image in the order of their names, as written.

    Raises DatasetError where the devkit is missing, or a part of it.
    """
    files = read_devkit(root, (META, GROUND_TRUTH).__contains__)
    for needed in (META, GROUND_TRUTH):
        if needed not in files:
            path = root.path / DEVKIT / "data" / needed
            raise DatasetError(f"{path}: missing, and flat validation images have their labels there")
    return files[GROUND_TRUTH].decode(errors="replace").split()


def read_devkit(root: Folder, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of data/ in the devkit whose names are `wanted`; none without a devkit. Raises DatasetError."""
    if root.holds(DEVKIT):
        devkit = root.folder(DEVKIT)
        files = devkit.folder("data").files if devkit.holds("data") else {}
        return {name: file.read_bytes() for name, file in files.items() if wanted(name)}

    packed = root.files.get(f"{DEVKIT}.tar.gz")
    if packed is None:
        return {}
    path = root.path / f"{DEVKIT}.tar.gz"
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed.read_bytes())) as file:
            content = file.read(DEVKIT_BYTES + 1)
        if len(content) > DEVKIT_BYTES:
            raise DatasetError(f"{path}: unpacks to more than {DEVKIT_BYTES} bytes, which no devkit does")

        found = {}
        for member in list_members(io.BytesIO(content), 0, len(content)):
            if not member.problem and member.path.parts[-2:-1] == ("data",) and wanted(member.path.name):
                found[member.path.name] = content[member.offset : member.offset + member.size_bytes]
        return found
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: damaged or incomplete ({error}): copy or download it again") from None
    except TarError as error:
        raise DatasetError(f"{path}: {error}") from None


def _read_meta(content: bytes, path: Path) -> Synsets:
    """Synsets in meta.mat; `path` is its place, for errors. Raises DatasetError."""
    import scipy.io

    try:
        file: Any = io.BytesIO(content)  # scipy takes it, its stubs do not
        rows = scipy.io.loadmat(file, squeeze_me=True, struct_as_record=True)["synsets"]
        leaves = [row for row in rows if int(row["num_children"]) == 0]
        return Synsets(
            {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves},
            {str(row["WNID"]): str(row["words"]) for row in leaves},
        )
    except Exception as error:  # scipy raises what it likes on a damaged file
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise DatasetError(f"{path}: not the devkit's meta.mat ({said})") from None

"""The only reader of labelled data sets: ILSVRC-2012 as distributed, or as Kaggle does, class folders, images with a
list of labels; unpacked, in tar archives, or packed into shards (WebDataset, Parquet).

It knows names, labels and where the bytes lie; it decodes nothing. A label is the position of the WNID (or folder
name) in sorted order; devkit ids, which follow another order, are mapped through meta.mat. What is passed over is
counted. docs/data.md has the rules.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from . import kaggle, parquet, webdataset
from .devkit import DEVKIT, GROUND_TRUTH, META, Synsets, read_synsets, read_validation_ids
from .folder import SUFFIXES, TAR, File, Folder, Listing, Sample, Stored, composed, ending_of, open_folder, printable
from .folder import DatasetError as DatasetError
from .label_file import label_paths, read_label_file
from .only import find_places, read_names
from .shards import PARQUET, SPLITS, Split, find_shards, label_samples
from .spread import say_part, spread
from .webdataset import is_webdataset

TRAIN = "ILSVRC2012_img_train"
VAL = "ILSVRC2012_img_val"

ILSVRC2012_FIRST_LABELS = (65, 970, 230, 809, 516, 57)
"""Sorted-WNID labels of the first six validation images (Caffe's val.txt), by which the real set is known."""
SHOWN = 3
"""Names that a line shows of many."""


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

    numbered: labels are numbers in the order of the model's own classes, whatever `classes` calls them.
    left_out: how many files are no images, by their endings; empty_classes: those of `classes` whose folders hold no
    image at all; remarks: what was chosen by the reader, a line each; is_part: of a larger data set, by a limit.
    """

    root: Path
    items: Sequence[Item]
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    is_ilsvrc2012_val: bool
    devkit_order: tuple[int, ...] = ()  # ILSVRC2012_ID - 1 of each class, where there is a devkit that has them
    numbered: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)
    empty_classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    is_part: bool = False

    @property
    def listing_digest(self) -> str:
        """A digest of names, labels and sizes in bytes, wherever the images lie."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for item in self.items:
            digest.update(f"\n{_last_part(item)}\t{item.label}\t{item.file.size_bytes()}".encode())
        return digest.hexdigest()[:16]

    @property
    def notes(self) -> list[str]:
        """Lines that a user should know of the reading: one for each, none where all was taken as it lay there."""
        said = [f"{self.root}: {remark}" for remark in self.remarks]
        if self.empty_classes:
            count = len(self.empty_classes)
            said.append(f"{self.root}: {count} folder{'s' * (count > 1)} without images ({_some(self.empty_classes)})")
        if self.left_out:
            said.append(f"{self.root}: {say_left_out(self.left_out)}")
        return said


def say_left_out(left_out: Mapping[str, int]) -> str:
    """`left out: 12 .txt, 3 .mov`, the most frequent first."""
    counts = sorted(left_out.items(), key=lambda one: (-one[1], one[0]))
    return f"left out: {', '.join(f'{count} {ending}' for ending, count in counts)}"


def open_dataset(
    root: Path,
    split: Split | Literal["named"] = "val",
    *,
    limit: int | None = None,
    labels: Path | None = None,
    columns: Mapping[str, str] | None = None,
    only: Path | None = None,
) -> Dataset:
    """The images of one split; "named": of val, or of train where `only` names none of val. Raises DatasetError.

    root: ILSVRC-2012 (ILSVRC2012_img_val flat or in WNID folders, ILSVRC2012_img_train, the devkit; or Kaggle's
    folders), or class folders, directly or below train/ and val/. A tar archive stands for the folder of its name, at
    any of these places; ILSVRC2012_img_val.tar or ILSVRC2012_img_train.tar itself takes the devkit from beside it. Or
    WebDataset's or Parquet's shards: a folder of them, one, or a pattern.

    limit: so many of them, evenly spaced over all classes, always the same. labels: a file that has the label of each
    image, whatever folder it is in. columns: names of Parquet's columns `image` and `label`, where they are others.
    only: a list of the images that are taken, a name a line; it may name images of the other split, too.
    """
    if only is None:
        return _limited(_open_split(root, "val" if split == "named" else split, labels, columns), limit)

    # the other split is opened only where names are not of this one
    names, both = read_names(only), has_validation(root) and has_training(root)
    own: Split = "train" if split == "train" else "val"
    if split == "named" and not both and has_training(root) and not root.is_file():
        own = "train"
    dataset = _open_split(root, own, labels, columns)
    places, absent = find_places(names, [item.name for item in dataset.items], only)
    others = 0
    if absent and both:
        other: Split = "val" if own == "train" else "train"
        beside = _open_split(root, other, labels, columns)
        there, absent = find_places(absent, [item.name for item in beside.items], only)
        others = len(there)
        if not places and split == "named":
            own, other, dataset, places, others = other, own, beside, there, 0

    if absent:
        raise DatasetError(
            f"{only}: {len(absent)} of {len(names)} names are of no image of {root} ({printable(absent[0])[:200]}"
            f"{' ...' * (len(absent) > 1)}): expected names like {dataset.items[0].name}"
        )
    if not places:
        raise DatasetError(f"{only}: names no {own} image of {root}, only {others} of the other split: name some")
    return _limited(_chosen(dataset, places, only, others), limit)


def _open_split(root: Path, split: Split, labels: Path | None, columns: Mapping[str, str] | None) -> Dataset:
    """All images of a split. Raises DatasetError."""
    shards = _shards(root, split)
    if columns and not (shards and shards[0].suffix == PARQUET):
        raise DatasetError(f"--columns names columns of Parquet files, but {root} holds none")
    if shards:
        if labels is not None:
            raise DatasetError(f"--labels {labels}: shards hold the labels of their images themselves: leave it out")
        return _open_packed(shards, root, columns or {})

    top = open_folder(root)
    if root.stem in (TRAIN, VAL) and root.suffix == TAR:
        beside = open_folder(root.parent)
        names = (DEVKIT, f"{DEVKIT}{TAR}", f"{DEVKIT}{TAR}.gz")
        files = {name: file for name, file in beside.files.items() if name in names}
        folders = {name: folder for name, folder in beside.folders.items() if name in names}
        top = Folder(beside.path, files, {**folders, root.stem: top})

    if top.holds(TRAIN) or top.holds(VAL):
        dataset = _open_ilsvrc(top, root, split, labels)
    else:
        dataset = _open_folders(top, root, split, labels)
    if not dataset.items:
        said = f"; {say_left_out(dataset.left_out)}" if dataset.left_out else ""
        raise DatasetError(f"{root}: no {split} images found (endings {', '.join(SUFFIXES)}){said}")
    return dataset


def has_validation(root: Path) -> bool:
    """True where a data set has images for validation beside those to train on, good or not. Raises DatasetError."""
    shards = _shards(root, "val")
    if shards:
        return shards != _shards(root, "train")
    if root.is_file() and root.stem in (TRAIN, VAL):
        return False

    top, _ = kaggle.enter(open_folder(root))
    name = _split_name(top, "val")
    return top.holds(VAL) or name not in (None, "test")


def has_training(root: Path) -> bool:
    """True where a data set has a folder of images to train on, or shards of them. Raises DatasetError."""
    if _shards(root, "train") or root.is_file():
        return root.stem != VAL
    top, _ = kaggle.enter(open_folder(root))
    return top.holds(TRAIN) or _split_name(top, "train") is not None


def _shards(root: Path, split: Split) -> list[Path]:
    """The shards of a data set that is packed into shards; an empty list for any other data set."""
    shards = find_shards(root, split)
    return shards if shards and (shards[0].suffix == PARQUET or is_webdataset(shards[0])) else []


def _chosen(dataset: Dataset, places: Sequence[int], only: Path, others: int) -> Dataset:
    """The images at `places`, which a list named beside so many of the other split."""
    said = f"{len(places)} of {len(dataset.items)} images, those of {only.name}"
    if others:
        said += f", which names {others} of the other split, too"
    remarks = (*dataset.remarks, printable(said))
    if len(places) == len(dataset.items):
        return replace(dataset, remarks=remarks)
    items = [dataset.items[place] for place in places]
    return replace(dataset, items=items, is_ilsvrc2012_val=False, remarks=remarks, is_part=True)


def _limited(dataset: Dataset, limit: int | None) -> Dataset:
    """The data set, or `limit` images of it, which are spread over all classes."""
    count = len(dataset.items)
    if limit is None or limit >= count:
        return dataset

    labels = [item.label for item in dataset.items]
    items = [dataset.items[place] for place in spread(labels, limit)]
    said = say_part([item.label for item in items], labels)
    return replace(dataset, items=items, is_ilsvrc2012_val=False, remarks=(*dataset.remarks, said), is_part=True)


def _open_packed(shards: Sequence[Path], root: Path, columns: Mapping[str, str]) -> Dataset:
    """The data set of some shards: samples in the order of their names, however they are cut into shards."""
    names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    left_out: Counter[str] = Counter()
    if shards[0].suffix == PARQUET:
        chosen, remarks = parquet.choose_columns(shards[0], columns)
        names = parquet.class_names(shards, chosen)
        samples = [sample for shard in shards for sample in parquet.read_samples(shard, chosen)]
    else:
        samples = [sample for shard in shards for sample in webdataset.read_samples(shard, left_out)]

    if len({sample.name for sample in samples}) < len(samples):
        if shards[0].suffix != PARQUET:
            twice = next(name for name, count in Counter(sample.name for sample in samples).items() if count > 1)
            raise DatasetError(f"{root}: {twice} is there twice, expected each name in one shard")
        samples = [sample._replace(name=f"{number:08d}/{sample.name}") for number, sample in enumerate(samples)]
    samples.sort(key=lambda sample: sample.name.split("/"))
    if not samples:
        raise DatasetError(f"{root}: no images in {len(shards)} shards (endings {', '.join(SUFFIXES)})")

    labels = label_samples(samples, root, names)
    items = [Item(sample.name, number, sample.file) for sample, number in zip(samples, labels.labels, strict=True)]
    return Dataset(
        root,
        items,
        labels.classes,
        labels.classes,
        is_ilsvrc2012_val=_is_ilsvrc2012_val(items),
        numbered=labels.numbered,
        left_out=left_out,
        remarks=remarks,
    )


def _open_folders(top: Folder, root: Path, split: Split, labels: Path | None) -> Dataset:
    """Class folders, or images with a list of their labels: --labels, or the one that Kaggle puts beside them."""
    top, prefix = kaggle.enter(top)
    name = _split_name(top, split)
    folder = top if name is None else top.folder(name)
    prefix += f"{name}/" if name is not None else ""

    if name is None and top.folders and all(_is_split_word(inside) for inside in top.folders):
        there = ", ".join(map(printable, sorted(top.folders)))
        raise DatasetError(f"{root}: no {split} folder beside {there}: expected {split}/CLASS, or name one of these")

    if labels is not None:
        return _open_labelled(folder, root, prefix, read_label_file(labels), labels)
    dataset = _open_class_folders(folder, root, prefix)
    if dataset.items or not folder.images():
        return dataset

    found = kaggle.solution_near(folder)
    if found is None:
        count = len(folder.images())
        raise DatasetError(
            f"{folder.path}: {count} image{'s' * (count > 1)} in no class folder, and no labels: expected CLASS/IMAGE, "
            f"--labels FILE.csv (image,label), or Kaggle's {kaggle.SOLUTION} beside or above them"
        )
    return _open_labelled(folder, root, prefix, read_label_file(found), found, kaggle.words_near(found))


def _split_name(top: Folder, split: Split) -> str | None:
    """The name of the folder of a split, in any case; None where the folder has none.

    A class may be called like a split, as `train`: then other classes stand beside it, and none in it.
    """
    names = {name.lower(): name for name in (*top.folders, *(name.removesuffix(TAR) for name in _archives(top)))}
    for word in SPLITS[split]:
        if word in names:
            others = [name for name in top.folders if not _is_split_word(name)]
            if not others or top.folder(names[word]).classes():
                return names[word]
    return None


def _is_split_word(name: str) -> bool:
    return any(name.lower() in words for words in SPLITS.values())


def _archives(folder: Folder) -> list[str]:
    return [name for name in folder.files if name.endswith(TAR)]


def _open_labelled(
    folder: Folder,
    root: Path,
    prefix: str,
    rows: list[list[str]],
    source: Path,
    words: Mapping[str, str] | None = None,
) -> Dataset:
    """Images anywhere below a folder, with the labels that the rows of a file have for them."""
    images, left_out = folder.walk()
    found = label_paths(rows, [path for path, _ in images], source)

    # a list of images knows classes that have none of those here
    labels = [Sample(path, label, file) for (path, file), label in zip(images, found.labels, strict=True)]
    known = label_samples(labels, root, words=[*found.words, *(words or ())])
    items = [
        Item(f"{prefix}{printable(path)}", label, file)
        for (path, file), label in zip(images, known.labels, strict=True)
    ]
    return Dataset(
        root,
        items,
        known.classes,
        tuple((words or {}).get(name, name) for name in known.classes),
        is_ilsvrc2012_val=_is_ilsvrc2012_val(items),
        numbered=known.numbered,
        left_out=left_out,
        remarks=(f"labels by {source}{found.remark}",),
    )


def _open_ilsvrc(top: Folder, root: Path, split: Split, labels: Path | None) -> Dataset:
    name = TRAIN if split == "train" else VAL
    if not top.holds(name):
        raise DatasetError(f"{root}: no {name} folder or {name}{TAR}")

    folder = top.folder(name)
    images = folder.images()
    if labels is not None:
        return _open_labelled(folder, root, f"{name}/", read_label_file(labels), labels)
    if split == "train" or folder.folders or (folder.classes() and not images):
        dataset = _open_class_folders(folder, root, f"{name}/")
    else:
        dataset = Dataset(root, [], (), (), is_ilsvrc2012_val=False)

    # validation images are flat where the folders beside them hold none
    synsets = read_synsets(top)
    if not dataset.items and images and split == "val":
        flat, classes, synsets = _label_flat(images, top, root)
        dataset = replace(dataset, items=flat, classes=classes, left_out=folder.left_out(), empty_classes=())

    items, classes = dataset.items, dataset.classes
    by_name = sorted(items, key=_last_part)
    ids = {wnid: i for i, wnid in synsets.wnid_of_id.items()}
    return replace(
        dataset,
        items=by_name if split == "val" else items,
        class_names=tuple(synsets.words.get(c, c) for c in classes),
        is_ilsvrc2012_val=split == "val" and _is_ilsvrc2012_val(items),
        devkit_order=tuple(ids[c] - 1 for c in classes) if ids.keys() >= set(classes) else (),
    )


def list_images(path: Path) -> Listing:
    """Every image below a folder, labelled or not, by the rule of data sets. Raises DatasetError without any."""
    found = open_folder(path).walk()
    if not found.images:
        said = f"; {say_left_out(found.left_out)}" if found.left_out else ""
        raise DatasetError(f"{path}: no images below it{said}")
    return found


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
    """Images in the folders of their classes, or in folders of these."""
    names = folder.classes()
    if not names and not folder.images():
        said = f"; {say_left_out(folder.left_out())}" if folder.files else ""
        raise DatasetError(
            f"{folder.path}: neither ILSVRC-2012 ({VAL}, {DEVKIT}) nor class folders found, nor any image{said}"
        )

    classes = tuple(printable(composed(name)) for name in names)
    items, empty, left_out = [], [], folder.left_out()
    if not folder.folders:
        left_out.pop(TAR, None)  # they are the classes
    for label, name in enumerate(names):
        images, others = folder.folder(name).walk((folder,))
        left_out += others
        if not images:
            empty.append(classes[label])
        for path, file in images:
            items.append(Item(f"{prefix}{classes[label]}/{printable(path)}", label, file))

    # an image in no class folder has no label
    if items:
        left_out += Counter(f"{ending} in no class folder" for ending in map(ending_of, folder.images()))
    words = kaggle.words_near(folder.path)
    return Dataset(
        root,
        items,
        classes,
        tuple(words.get(name, name) for name in classes),
        is_ilsvrc2012_val=_is_ilsvrc2012_val(items),
        left_out=left_out,
        empty_classes=tuple(empty),
    )


def _is_ilsvrc2012_val(items: Sequence[Item]) -> bool:
    if len(items) != 50_000:
        return False
    return tuple(item.label for item in sorted(items, key=_last_part)[:6]) == ILSVRC2012_FIRST_LABELS


def _some(names: Sequence[str]) -> str:
    """A few names of many."""
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def _last_part(item: Item) -> str:
    return item.name.rpartition("/")[2]

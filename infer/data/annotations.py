"""Bounding boxes as ILSVRC-2012 has them: an XML file for each image, in folders or a tar archive, defects and all.

Defects of the originals, and the rule for each:
- coordinates are relative to the size that the XML itself names, which need not be the image's: `fractions` of it;
- boxes reach beyond the image: fractions end at its edges, and a box that lies wholly outside is none;
- minimum and maximum change places: they are put in order;
- coordinates are floats: they stay so;
- <filename> is "%s": it is not looked at, an XML belongs to the image of its own name;
- some objects are named in words, `Scottish_deerhound`, where a WNID should be: `class_of`.

Coordinates count pixels from 1, both ends included, so a box is xmax - xmin + 1 wide, as the devkit has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ..errors import Refused
from ..files import POINTER, is_pointer
from ..spec import Size
from .folder import DatasetError, File, Folder, printable

SUFFIX = ".xml"
LARGEST_BYTES = 1 << 20
"""Bytes of an XML at most; ILSVRC-2012's have some hundred."""
ROOT = "annotation"
WNID = re.compile(r"n\d{8}")


class AnnotationError(Refused):
    """An XML that names no place for a box; one line that names the file."""


class Box(NamedTuple):
    """A box in pixels, counted from 1, both ends included."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float


class Fractions(NamedTuple):
    """A box's edges from 0 to 1 of the image's width and height."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Annotation:
    """The objects of one image, (name, box), in an image of `size_px` (height, width) if the XML says of what size.

    difficult: of each object, whether VOC's annotators found it hard to recognise.
    """

    size_px: Size | None
    objects: tuple[tuple[str, Box], ...]
    difficult: tuple[bool, ...]


def find_annotations(folder: Folder) -> dict[str, File]:
    """The XML of each image by the image's name without its ending, anywhere below a folder, or archive opened as one.

    Raises DatasetError, also where two have the same name.
    """
    found: dict[str, File] = {}
    waiting = [folder]

    while waiting:
        inside = waiting.pop()
        waiting += [inside.folder(name) for name in sorted(inside.folders)]
        for name, file in sorted(inside.files.items()):
            stem = name[: -len(SUFFIX)]
            if not name.lower().endswith(SUFFIX):
                continue
            if stem in found:
                raise DatasetError(f"{folder.path}: {printable(name)} is there twice, expected one XML for each image")
            found[stem] = file

    if not found:
        raise DatasetError(f"{folder.path}: no XML files, expected one for each image")
    return found


def boxes_beside(root: Folder, name: str) -> Folder:
    """The bounding boxes of a data set: a folder or tar archive of this name. Raises DatasetError."""
    if root.holds(name):
        return root.folder(name)
    for packed in (f"{name}.tgz", f"{name}.tar.gz"):
        if packed in root.files:
            raise DatasetError(f"{root.path / packed}: is compressed, so nothing in it can be reached alone: gunzip it")
    raise DatasetError(f"{root.path / name}: no such folder, expected the bounding boxes there or in {name}.tar")


def read_annotation(file: File, name: str) -> Annotation:
    """The annotation in one XML, whose `name` is for messages. Raises AnnotationError."""
    try:
        if file.size_bytes() > LARGEST_BYTES:
            raise AnnotationError(f"more than {LARGEST_BYTES} bytes")
        return parse_annotation(file.read_bytes())
    except OSError as error:
        raise AnnotationError(f"{printable(name)}: cannot be read ({error.strerror})") from None
    except AnnotationError as error:
        raise AnnotationError(f"{printable(name)}: {error}") from None


def parse_annotation(data: bytes) -> Annotation:
    """The annotation in the bytes of an XML. Raises AnnotationError, a phrase without the file."""
    if is_pointer(data):
        raise AnnotationError(POINTER)
    root = _parse(data)
    if root.tag != ROOT:
        raise AnnotationError(f"begins with <{root.tag[:40]}>, expected <{ROOT}>")
    objects, difficult = [], []
    for found in root.iterfind("object"):
        edges = [_number(found, f"bndbox/{tag}") for tag in Box._fields]
        (xmin, xmax), (ymin, ymax) = sorted(edges[0::2]), sorted(edges[1::2])
        objects.append(((found.findtext("name") or "").strip(), Box(xmin, ymin, xmax, ymax)))
        difficult.append((found.findtext("difficult") or "").strip().casefold() in ("1", "true", "yes"))
    return Annotation(_size(root), tuple(objects), tuple(difficult))


def class_of(classes: Sequence[str], class_names: Sequence[str]) -> Callable[[str, int], int]:
    """A function of an object's name and its image's label that gives the object's class, -1 if it is none of these.

    A name is a class's own, or (dogs, in ILSVRC-2012) one of its words in `class_names`, with underscores. Where
    classes are WNIDs, words of no class, or of two, mean the image's label; a WNID is never taken for words.
    """
    wnids = all(map(WNID.fullmatch, classes))
    index = {name: number for number, name in enumerate(classes)}
    words: dict[str, set[int]] = {}
    for number, names in enumerate(class_names):
        for name in names.split(", "):
            words.setdefault(_plain(name), set()).add(number)

    def find(name: str, label: int) -> int:
        if name in index or WNID.fullmatch(name):
            return index.get(name, -1)
        own = words.get(_plain(name), set())
        if len(own) == 1:
            return next(iter(own))
        return label if wnids or label in own else -1

    return find


def boxes_of(annotation: Annotation, label: int, find: Callable[[str, int], int]) -> tuple[Box, ...]:
    """Boxes of the objects that are of the image's class."""
    return tuple(box for name, box in annotation.objects if find(name, label) == label)


def fractions(box: Box, size_px: Size) -> Fractions | None:
    """A box as fractions of an image of `size_px`, whatever size the image really has; None if it lies outside."""
    height, width = size_px
    left, right = (min(max(x / width, 0.0), 1.0) for x in (box.xmin - 1, box.xmax))
    top, bottom = (min(max(y / height, 0.0), 1.0) for y in (box.ymin - 1, box.ymax))
    return Fractions(left, top, right, bottom) if left < right and top < bottom else None


def in_frame(box: Box, size_px: Size, frame_px: Size) -> Box:
    """A box of an image of `size_px`, moved to the same image at `frame_px`."""
    down, across = (to / of for of, to in zip(size_px, frame_px, strict=True))
    return Box((box.xmin - 1) * across + 1, (box.ymin - 1) * down + 1, box.xmax * across, box.ymax * down)


def _parse(data: bytes) -> ElementTree.Element:
    """The tree of an XML without a DOCTYPE: no entity can then be declared, so none can grow or lead elsewhere."""
    try:
        return fromstring(data, forbid_dtd=True)
    except DefusedXmlException:
        raise AnnotationError("declares a DOCTYPE, which no annotation needs") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last: of an encoding
        raise AnnotationError(f"not XML ({' '.join(str(error).split())})") from None


def _number(element: ElementTree.Element, path: str) -> float:
    text = (element.findtext(path) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AnnotationError(f"<{path}> is {text[:20]!r}, expected a number")
    return value


def _size(root: ElementTree.Element) -> Size | None:
    try:
        height, width = (int(float(root.findtext(f"size/{tag}") or "")) for tag in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())

"""The objects in the XMLs of many images; what cannot be used is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from ...spec import Size
from ..annotations import Annotation, AnnotationError, fractions, read_annotation
from ..dataset import Item
from ..folder import File, printable
from .objects import Object

MOST_OBJECTS = 10_000
"""Objects of an image at most."""


@dataclass
class Annotated:
    """Images whose annotations could be read, in their order, and what was found wrong."""

    items: list[Item] = field(default_factory=list)
    objects: list[tuple[Object, ...]] = field(default_factory=list)
    sizes_px: list[Size | None] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # of these images among all
    broken: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def add(self, place: int, item: Item, objects: Iterable[Object], size_px: Size | None, shown: str) -> None:
        """Adds an image; objects that lie wholly outside of it, or have no area, are left out and named."""
        kept = []
        for one in objects:
            flat = one.box.xmax - one.box.xmin + 1 <= 0 or one.box.ymax - one.box.ymin + 1 <= 0
            if flat or (size_px is not None and fractions(one.box, size_px) is None):
                self.outside.append(shown)
            else:
                kept.append(one)

        self.items.append(item)
        self.objects.append(tuple(kept))
        self.sizes_px.append(size_px)
        self.places.append(place)

    def sorted(self) -> Annotated:
        """The same in the order of the places among all images."""
        order = sorted(range(len(self.places)), key=self.places.__getitem__)
        return Annotated(
            [self.items[number] for number in order],
            [self.objects[number] for number in order],
            [self.sizes_px[number] for number in order],
            [self.places[number] for number in order],
            self.broken,
            self.outside,
        )

    def notes(self) -> list[str]:
        """What a user should know, a line each."""
        if not self.outside:
            return []
        count = len(self.outside)
        named = f"{count} object{'s' * (count > 1)} outside the image or without area"
        return [f"{named}, left out ({printable(self.outside[0])}{' ...' * (count > 1)})"]


def read_xmls(
    images: Iterable[tuple[Item, File]],
    find: Callable[[str], int],
    expected: str,
    difficult: Literal["ignored", "counted"],
) -> Annotated:
    """Reads the XML of each image.

    find: the class of an object's name, -1 for none; expected: what names should be, for messages; difficult: what
    becomes of objects that VOC's annotators called so. An image whose XML cannot be read, or names an object of no
    class, is left out and named in `broken`.
    """
    annotated = Annotated()
    for place, (item, file) in enumerate(images):
        shown = f"{item.name.rpartition('/')[2].rpartition('.')[0]}.xml"
        try:
            annotation = read_annotation(file, shown)
            objects = _objects_of(annotation, find, expected, shown, difficult == "ignored")
        except AnnotationError as error:
            annotated.broken.append(str(error))
            continue
        annotated.add(place, item, objects, annotation.size_px, shown)
    return annotated


def _objects_of(
    annotation: Annotation, find: Callable[[str], int], expected: str, shown: str, ignores: bool
) -> list[Object]:
    """The objects of an XML. Raises AnnotationError."""
    if len(annotation.objects) > MOST_OBJECTS:
        raise AnnotationError(f"{shown}: {len(annotation.objects)} objects, expected at most {MOST_OBJECTS}")

    objects = []
    for (name, box), difficult in zip(annotation.objects, annotation.difficult, strict=True):
        label = find(name)
        if label < 0:
            raise AnnotationError(f"{shown}: an object is named {printable(name)[:40]!r}, expected {expected}")
        objects.append(Object(label, box, ignored=ignores and difficult))
    return objects

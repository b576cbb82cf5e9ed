"""The values of a run's page: what was measured, in the order in which the page says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from infer.data.detection import DetectionData
from infer.pixels.decode import ImageError, decode
from infer.spec import Exif

from ..published.detection import PublishedDetection
from .intervals import difference_with_interval
from .metric import Rule
from .mistakes import Mistakes
from .report.pictures import choose_images, encode_picture, marks_of
from .report.values import ClassValues, PageValues, Picture, SystemValues
from .score import Measured, detections_by_class

PICTURES = 24


def page_values(
    data: DetectionData,
    measured: Sequence[Measured],
    rule: Rule,
    rule_in_words: str,
    *,
    title: str,
    exif: Exif,
    facts: Mapping[str, str],
    remarks: Sequence[str],
    published: Sequence[PublishedDetection],
    command: str,
) -> PageValues:
    """The page of a run, whose last system, all nets together where there are several, is shown in detail.

    exif: as the nets see images; published: the paper's rows that stand beside. An image that can no longer be read has
    no picture.
    """
    shown = measured[-1]
    return PageValues(
        title=title,
        rule=rule,
        rule_in_words=rule_in_words,
        images=len(data.items),
        objects=int(shown.precisions.objects.sum()),
        not_counted=len(data.not_counted),
        systems=[_system(shown, None, rule), *(_system(one, shown, rule) for one in measured[:-1])],
        classes=_classes(data, shown),
        pictures=_pictures(data, shown, exif),
        published=published,
        remarks=remarks,
        facts={"data set": f"{data.listing_digest} ({data.kind}, {data.split})", **facts},
        command=command,
    )


def sum_counts(mistakes: Sequence[Mistakes]) -> dict[str, int]:
    """The counts of all classes together."""
    total: Counter[str] = Counter()
    for own in mistakes:
        total.update(own.counts())
    return dict(total)


def _system(one: Measured, first: Measured | None, rule: Rule) -> SystemValues:
    difference = None if first is None else difference_with_interval(first.judged, one.judged, rule)
    return SystemValues(one.system.name, len(one.system.nets), one.mean, sum_counts(one.mistakes), difference)


def _classes(data: DetectionData, shown: Measured) -> list[ClassValues]:
    found = shown.precisions
    return [
        ClassValues(
            name,
            data.class_names[label].split(",")[0],
            int(found.objects[label]),
            float(found.aps[label]),
            found.curves[label],
            shown.mistakes[label].counts(),
        )
        for label, name in enumerate(data.classes)
    ]


def _pictures(data: DetectionData, shown: Measured, exif: Exif) -> list[Picture]:
    words = [name.split(",")[0] for name in data.class_names]
    detections = detections_by_class(shown.system, len(data.classes))
    pictures = []
    for place in choose_images(shown.mistakes, len(data.items), PICTURES):
        item = data.items[place]
        try:
            pixels = decode(item.read_bytes(), exif=exif, name=item.name)
        except (ImageError, OSError):
            continue
        marks = marks_of(shown.truth, detections, shown.mistakes, words, place)
        pictures.append(Picture(item.name, encode_picture(pixels), (pixels.shape[0], pixels.shape[1]), marks))
    return pictures

"""The images of `--calibrate DIR`: some of a folder, evenly spaced over its folders, with the views of a protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from infer.command import print_notes
from infer.data.dataset import DatasetError, list_images, say_left_out
from infer.data.folder import File, OwnFault, printable
from infer.data.spread import spread
from infer.pixels.decode import ImageError, Pixels, decode
from infer.spec import ModelSpec
from infer.views import ShapeRange, ViewPlan, out_of_range, plan_views

from ..errors import ModelError


class CalibrationError(ModelError):
    """Images or a net that no range can be measured with; one line."""


def list_files(folder: Path, limit: int) -> list[tuple[str, File]]:
    """Paths of images below `folder` and the files, at most `limit` (0: all); what is left out is said on stderr.

    Raises CalibrationError for a folder that is none or has no images.
    """
    try:
        files, left_out = list_images(folder)
    except DatasetError as error:
        raise CalibrationError(f"{error}: --calibrate takes a folder of images the net is for") from None
    if left_out:
        print_notes([f"{folder}: {say_left_out(left_out)}"])
    if 0 < limit < len(files):
        own = [folder_of(path) for path, _ in files]
        few = [files[place] for place in spread(own, limit)]
        seen = len({folder_of(path) for path, _ in few})
        print_notes([f"{folder}: {limit} of {len(files)} images, {seen} of {len(set(own))} folders"])
        files = few
    return list(files)


def folder_of(path: str) -> str:
    """The folder of an image, which is its class where there are classes."""
    return path.rpartition("/")[0]


def read_views(
    spec: ModelSpec, shapes: Sequence[ShapeRange], file: File, path: str, protocol: str
) -> tuple[Pixels, ViewPlan]:
    """The pixels of one image, u8 [h, w, 3], and its views.

    Raises ImageError for one that an engine of these shapes cannot see, OSError for one that is gone.
    """
    name = printable(path)
    try:
        image = decode(file.read_bytes(), exif=spec.preprocessing.exif, name=name)
    except OwnFault as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror})") from None
    plan = plan_views(spec, protocol, (image.shape[0], image.shape[1]))
    reason = out_of_range(plan, shapes, spec)
    if reason is not None:
        raise ImageError(f"{name}: {reason}")
    return image, plan


def one_by_one(plan: ViewPlan) -> Iterator[ViewPlan]:
    """Each view in a plan of its own."""
    return (ViewPlan(plan.protocol, plan.image_px, (view,)) for view in plan.views)

"""An application with a classifier embedded in it: pictures from a camera or a folder, the answer as they come.

    python examples/classify.py model.onnx FOLDER
    python examples/classify.py model.onnx 0          the camera /dev/video0

The model knows its own preprocessing, so all there is to do is to hand over pixels (u8, RGB) or a file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from infer import Classifier, ImageError
from infer.errors import one_line


def pictures(source: str) -> Iterator[tuple[str, Path | NDArray[np.uint8]]]:
    """(name, path or RGB pixels) of each file of a folder, or of each frame of a camera."""
    if not source.isdigit():
        for path in sorted(Path(source).iterdir()):
            yield path.name, path
        return

    camera = cv2.VideoCapture(int(source))
    number = 0
    while (frame := camera.read())[0]:
        yield f"frame {number}", cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        number += 1


def main(model: str, source: str) -> None:
    classifier = Classifier(model, protocol="center")
    for name, picture in pictures(source):
        try:
            best = classifier(picture, top=1)[0]
            print(one_line(f"{name}: {best.name} ({100 * best.probability:.1f} %)"))
        except ImageError as error:  # a camera's broken frame or a stray file must not end the application
            print(one_line(f"{name}: {error}"), file=sys.stderr)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that a terminal cannot show
    if len(sys.argv) != 3:
        sys.exit("python examples/classify.py MODEL.onnx FOLDER|CAMERA")
    main(sys.argv[1], sys.argv[2])

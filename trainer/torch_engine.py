"""A checkpoint as an engine: views rendered on the host, the net in torch. Other runtimes must agree with it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from infer.engine import HOST, DeviceImage, Outputs, answer_of, check_outputs, in_order, load_on_host
from infer.files import file_sha256
from infer.pixels.decode import Pixels
from infer.pixels.render import pixel_sums, render
from infer.spec import Exif, ModelSpec
from infer.views import ShapeRange, ViewPlan, default_shapes

from . import checkpoint as checkpoints
from .checkpoint import Checkpoint

BATCH_PIXELS = 16 * 224 * 224
"""Pixels of views in one forward pass: larger batches are slower on a CPU and take gigabytes."""


class TorchEngine:
    """An `infer.engine.Engine` of a checkpoint, in FP32 on a CPU or, `place="cuda:0"`, a GPU."""

    runtime = "torch-fp32"
    arithmetic = "fp32"
    device = HOST

    def __init__(
        self, checkpoint: Checkpoint, *, sha256: str = "", largest_short_px: int = 0, place: str = "cpu"
    ) -> None:
        """Builds the net on `place`. largest_short_px widens the default range of shapes."""
        self.spec: ModelSpec = checkpoint.spec
        if self.spec.task != "classify":
            self.spec = dataclasses.replace(self.spec, outputs=(answer_of(self.spec), "pixel_sums"))
        self.shapes: tuple[ShapeRange, ...] = default_shapes(self.spec, largest_short_px)
        self.sha256 = sha256
        self.seconds = 0.0
        self._place = torch.device(place)
        self.net = checkpoint.build().to(self._place, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(self.spec.preprocessing.mean_rgb, device=self._place)
        self._std = torch.tensor(self.spec.preprocessing.std_rgb, device=self._place)

    @classmethod
    def open(
        cls, path: Path, *, largest_short_px: int = 0, place: str = "cpu", exif: Exif | None = None
    ) -> TorchEngine:
        """The engine of a .pt file; exif: in place of its own. Raises CheckpointError."""
        opened = cls(checkpoints.load(path), sha256=file_sha256(path), largest_short_px=largest_short_px, place=place)
        opened.spec = opened.spec.with_exif(exif)
        return opened

    def load(self, images: Sequence[Pixels]) -> DeviceImage:
        return load_on_host(images)

    def run(self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)) -> Outputs:
        check_outputs(self.spec, outputs)
        pixels = [
            view
            for source, cache, plan in zip(image.images, image.rescaled, plans, strict=True)
            for view in render(source, plan.views, self.spec, cache)
        ]
        parts = []
        for places in _batches(pixels):
            batch = np.stack([pixels[place] for place in places])
            parts.append((places, self._forward(batch, outputs)))
        return in_order(parts, outputs)

    @torch.inference_mode()
    def _forward(self, batch: Pixels, outputs: Sequence[str]) -> Outputs:
        """The outputs of views u8 [V, h, w, 3].

        `posterior` averages positions before the softmax, `posterior_positions` after it.
        """
        started = time.perf_counter()
        x = ((torch.from_numpy(batch).to(self._place) - self._mean) / self._std).permute(0, 3, 1, 2)
        with torch.backends.cudnn.flags(allow_tf32=False):
            maps = self.net(x).cpu()  # [V, classes, h', w']

        if self.spec.task == "classify":
            computed = {"posterior": torch.softmax(maps.mean((2, 3)), 1).numpy()}
        elif self.spec.task == "multibox":
            boxes = maps.reshape(-1, self.spec.boxes, 5)
            computed = {"boxes": torch.cat([boxes[..., :4], torch.sigmoid(boxes[..., 4:])], 2).numpy()}
        else:
            computed = {"box_map": maps.numpy()}
        if "posterior_positions" in outputs:
            computed["posterior_positions"] = torch.softmax(maps, 1).mean((2, 3)).numpy()

        self.seconds += time.perf_counter() - started
        if "pixel_sums" in outputs:
            computed["pixel_sums"] = pixel_sums(batch)
        return computed

    def close(self) -> None:
        pass


def _batches(pixels: Sequence[Pixels]) -> list[list[int]]:
    """Places of views that can run together: of one size, and not too many pixels."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for place, view in enumerate(pixels):
        by_size.setdefault(view.shape, []).append(place)

    batches = []
    for (height, width, _), places in by_size.items():
        most = max(1, BATCH_PIXELS // (height * width))
        batches += [places[start : start + most] for start in range(0, len(places), most)]
    return batches

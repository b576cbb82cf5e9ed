"""JPEGs decoded on an NVIDIA GPU by nvImageCodec, for those who ask for it: pixels may differ by a grey level.

So what is made of them says which decoder it was. Files that are not plain JPEGs, do not end as one, or are refused by
nvImageCodec are decoded on the CPU, where a damaged file gets its error (decode.py). The GPU's dedicated JPEG engine is
left out: which images of a run it would take depends on the GPU and on what else is under way. Pixels come back to the
host, since engines load them from there. Written against nvImageCodec 0.9; it has not run on a GPU yet.
"""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import Refused
from ..spec import Exif
from .decode import Pixels, decode
from .header import HeaderError, jpeg_frame, read_header
from .plain_jpeg import is_plain

DecoderName = Literal["cpu", "nvjpeg"]
BACKENDS = ("HYBRID_CPU_GPU", "GPU_ONLY")
"""Of nvImageCodec. Without the CPU's, which would decode by another libjpeg what the GPU refuses."""
OPTIONS = ":fancy_upsampling=1"
"""Chroma is interpolated, as libjpeg does."""
END = b"\xff\xd9"
CLOSE = 2.0
"""Mean difference from the CPU's pixels of a smooth picture, in grey levels, below which a GPU decodes rightly."""


class DecoderError(Refused):
    """A decoder that was asked for and is not to be had here."""


class Decode(Protocol):
    """u8 RGB [h, w, 3] of an encoded image, as infer.pixels.decode.decode. Raises ImageError and MemoryError."""

    def __call__(self, data: bytes, *, exif: Exif = "ignore", name: str = "image") -> Pixels: ...


def open_decoder(name: DecoderName, device: int = 0) -> Decode:
    """The decoder of that name; `device`: ordinal of the GPU. Raises DecoderError."""
    return decode if name == "cpu" else NvJpeg(device)


class NvJpeg:
    """Decodes on the GPU `device`, from any thread. Raises DecoderError where that cannot be."""

    def __init__(self, device: int = 0) -> None:
        os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # it tells of every file that it refuses
        try:
            self._codec: Any = importlib.import_module("nvidia.nvimgcodec")
        except ImportError as error:
            raise DecoderError(
                f"--decoder nvjpeg: nvImageCodec is not installed ({error}): pip install 'verydeep[nvjpeg]', or leave "
                "--decoder out"
            ) from None
        self._device = device
        self._own = threading.local()  # a decoder of nvImageCodec for each thread
        self._check()

    def __call__(self, data: bytes, *, exif: Exif = "ignore", name: str = "image") -> Pixels:
        pixels = self._on_gpu(data, exif)
        return decode(data, exif=exif, name=name) if pixels is None else pixels

    def _on_gpu(self, data: bytes, exif: Exif) -> Pixels | None:
        """None for what is not decoded on the GPU. Raises DecoderError where the GPU itself fails."""
        try:
            header = read_header(data)
        except HeaderError:
            return None
        if not is_plain(data, header, exif) or data.find(END, jpeg_frame(data)) < 0:
            return None

        try:
            image = self._decoder.decode(data, params=self._codec.DecodeParams(apply_exif_orientation=False))
            if image is None:
                return None
            pixels: NDArray[Any] = np.array(image.cpu())  # a copy of its memory, which is nvImageCodec's
        except RuntimeError as error:
            raise DecoderError(f"--decoder nvjpeg: GPU {self._device} failed ({_first_line(error)})") from None
        return pixels if pixels.dtype == np.uint8 and pixels.shape == (header.height, header.width, 3) else None

    @property
    def _decoder(self) -> Any:
        """This thread's decoder. Raises RuntimeError."""
        if not hasattr(self._own, "decoder"):
            codec = self._codec
            backends = [codec.Backend(getattr(codec.BackendKind, name)) for name in BACKENDS]
            self._own.decoder = codec.Decoder(
                device_id=self._device, max_num_cpu_threads=1, backends=backends, options=OPTIONS
            )
        return self._own.decoder

    def _check(self) -> None:
        """Raises DecoderError unless a JPEG is decoded here as it should be: without nvJPEG all would be refused."""
        y, x = np.mgrid[:64, :96]
        smooth = np.stack([x * 2, y * 3, 255 - x - y], 2).astype(np.uint8)
        data = cv2.imencode(".jpg", smooth)[1].tobytes()
        advice = (
            "it needs an NVIDIA driver, a GPU and nvJPEG (pip install 'verydeep[nvjpeg]'); leave --decoder out to "
            "decode on the CPU"
        )
        try:
            self._decoder  # noqa: B018
        except RuntimeError as error:
            raise DecoderError(
                f"--decoder nvjpeg: nvImageCodec cannot decode on GPU {self._device} ({_first_line(error)}): {advice}"
            ) from None

        pixels = self._on_gpu(data, "ignore")
        if pixels is None:
            raise DecoderError(f"--decoder nvjpeg: nvImageCodec refuses a plain JPEG on GPU {self._device}: {advice}")
        difference = float(np.abs(pixels.astype(int) - decode(data)).mean())
        if difference > CLOSE:
            raise DecoderError(
                f"--decoder nvjpeg: GPU {self._device} decodes a JPEG {difference:.0f} grey levels off, expected at "
                f"most {CLOSE:.0f}: leave --decoder out to decode on the CPU"
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

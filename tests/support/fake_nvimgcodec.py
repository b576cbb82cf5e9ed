"""NOT nvImageCodec: a double of its Python module for tests, with the names and signatures of the real one (0.9).

It decodes on the CPU, by OpenCV, and puts every pixel a grey level off, so that what it decoded is known from what
OpenCV did. As the real one it refuses files by None; what a caller must not do ends with an AssertionError.
"""

from __future__ import annotations

import enum
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Refusal = Callable[[bytes], bool]


def one_level_off(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A level up, of white a level down."""
    return pixels + np.where(pixels < 255, 1, -1).astype(np.uint8)


class BackendKind(enum.Enum):
    CPU_ONLY = 1
    GPU_ONLY = 2
    HYBRID_CPU_GPU = 3
    HW_GPU_ONLY = 4


class Backend:
    def __init__(self, backend_kind: BackendKind) -> None:
        self.backend_kind = backend_kind


class DecodeParams:
    def __init__(self, apply_exif_orientation: bool = True, allow_any_depth: bool = False) -> None:
        self.apply_exif_orientation = apply_exif_orientation


class Image:
    """In the memory of the GPU until `cpu` is called."""

    def __init__(self, pixels: NDArray[np.uint8], *, on_host: bool = False) -> None:
        self._pixels, self._on_host, self.shape = pixels, on_host, pixels.shape

    def cpu(self) -> Image:
        return Image(self._pixels, on_host=True)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.uint8]:
        assert self._on_host, "the pixels are on the GPU: call .cpu() first"
        return np.array(self._pixels)


def install(
    monkeypatch: pytest.MonkeyPatch,
    *,
    gpus: int = 1,
    refuses: Refusal = lambda _: False,
    picture: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = one_level_off,
) -> list[bytes]:
    """Puts the double in the place of `nvidia.nvimgcodec`; returns the files that it decodes from now on, in order."""
    decoded: list[bytes] = []

    class Decoder:
        def __init__(
            self,
            device_id: int = -1,
            max_num_cpu_threads: int = 0,
            backends: Sequence[Backend] | None = None,
            options: str = "",
        ) -> None:
            if not 0 <= device_id < gpus:
                raise RuntimeError("Internal error - Could not create decoder. Code: 8")
            kinds = {backend.backend_kind for backend in backends or [Backend(kind) for kind in BackendKind]}
            assert kinds == {BackendKind.GPU_ONLY, BackendKind.HYBRID_CPU_GPU}, "other pixels than were asked for"
            assert ":fancy_upsampling=1" in options.split()
            self._thread = threading.get_ident()

        def decode(
            self, src: bytes, *, image: Image | None = None, params: DecodeParams | None = None, cuda_stream: int = 0
        ) -> Image | None:
            assert threading.get_ident() == self._thread, "a decoder of another thread"
            assert isinstance(src, bytes)
            assert params is not None and not params.apply_exif_orientation
            if refuses(src):
                return None
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(src, np.uint8), flags)
            if pixels is None:
                return None
            decoded.append(src)
            return Image(picture(np.asarray(pixels, np.uint8)))

    codec = types.ModuleType("nvidia.nvimgcodec")
    names = {"Backend": Backend, "BackendKind": BackendKind, "DecodeParams": DecodeParams, "Decoder": Decoder}
    vars(codec).update(names)
    nvidia = types.ModuleType("nvidia")
    vars(nvidia)["nvimgcodec"] = codec
    monkeypatch.setitem(sys.modules, "nvidia", nvidia)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", codec)
    return decoded

"""ONNX Runtime as an engine, for the three interfaces of a model that export.to_onnx or export.from_onnx wrote."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .engine import HOST, DeviceImage, EngineError, Provider, check_outputs, load_on_host
from .files import file_sha256
from .graph_inputs import Feed, feed_atlas, feed_taps
from .pipeline import ahead
from .pixels.decode import Pixels
from .pixels.render import normalise, pixel_sums, render, source_of
from .shapes import ShapeRange, default_shapes
from .spec import ModelSpec, SpecError
from .views import View, ViewPlan, rescaled_px

PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

CALL_PIXELS = 10 * 224 * 224
"""Pixels of views in one call on a CPU: VGG-D takes 0.20 s a crop up to ten crops a call and 0.24 at fifty."""


class OnnxEngine:
    """Implements `engine.Engine`. On the CPU images are rescaled by Pillow, elsewhere by the graph.

    On a GPU an image is uploaded once for all scales, protocols and models of a process, by IOBinding.
    """

    def __init__(
        self,
        path: Path,
        *,
        provider: Provider = "cpu",
        device: int = 0,
        rescale: Literal["host", "graph"] | None = None,
        largest_short_px: int = 0,
        threads: int = 0,
    ) -> None:
        """Raises EngineError for a file that is no model of ours, or a provider that does not load."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        chosen = PROVIDERS[provider] if provider == "cpu" else (PROVIDERS[provider], {"device_id": device})
        wanted = [chosen, (PROVIDERS["cuda"], {"device_id": device})] if provider == "tensorrt" else [chosen]
        loaded = onnxruntime.get_available_providers()  # compiled in, which does not mean that they load
        try:
            if PROVIDERS[provider] in loaded:
                self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
                loaded = self._session.get_providers()
        except Exception as error:  # onnxruntime has a class of its own for each failure
            raise EngineError(f"{path}: not a model that can be opened ({str(error).splitlines()[0]})") from None
        if PROVIDERS[provider] not in loaded:
            raise EngineError(
                f"{path}: ONNX Runtime did not load its {provider} provider, only {', '.join(loaded)}: "
                "install onnxruntime-gpu and its CUDA libraries, or use --provider cpu"
            )
        if "spec" not in self.metadata:
            raise EngineError(f"{path}: an ONNX model without our spec: import it with python -m export.from_onnx")
        try:
            self.spec = ModelSpec.from_json(self.metadata["spec"])
        except SpecError as error:
            raise EngineError(f"{path}: {error}") from None
        self.shapes: tuple[ShapeRange, ...] = default_shapes(self.spec, largest_short_px)
        self.runtime = f"onnxruntime-{self.spec.precision}"
        self.sha256 = file_sha256(path)
        self.seconds = 0.0
        self.device = HOST if provider == "cpu" else f"cuda:{device}"
        self._call = (
            self._run_on_host if provider == "cpu" else functools.partial(self._run_bound, device=("cuda", device))
        )
        self._rescale = rescale or ("host" if provider == "cpu" else "graph")

    @property
    def metadata(self) -> dict[str, str]:
        """The model's own metadata: `spec`, `self_test`."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def load(self, images: Sequence[Pixels]) -> DeviceImage:
        return load_on_host(images)

    def run(
        self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)
    ) -> dict[str, NDArray[Any]]:
        """As in Engine. Raises EngineError for a view below the net's crop, which would crash the runtime, and for one
        of another size where the net's is fixed."""
        check_outputs(self.spec, outputs)
        views = [(number, view) for number, plan in enumerate(plans) for view in plan.views]
        for _, view in views:
            if min(view.size_px) < self.spec.crop_px:
                raise EngineError(
                    f"view of {view.size_px[0]}x{view.size_px[1]} px is smaller than the {self.spec.crop_px} px that "
                    f"{self.spec.name} needs: use a larger scale"
                )
            if self.spec.fixed_size and set(view.size_px) != {self.spec.crop_px}:
                raise EngineError(
                    f"view of {view.size_px[0]}x{view.size_px[1]} px: {self.spec.name} takes only "
                    f"{self.spec.crop_px}x{self.spec.crop_px} px: use a protocol of crops, like multicrop"
                )
        in_graph = [name for name in outputs if name != "pixel_sums" or self.spec.interface != "nchw"]
        results: dict[str, list[Any]] = {name: [None] * len(views) for name in outputs}
        for places, feed, sums in ahead(self._feeds(image, views)):
            started = time.perf_counter()
            try:
                computed = dict(zip(in_graph, self._call(image, in_graph, feed), strict=True))
            except Exception as error:  # onnxruntime has a class of its own for each failure
                said = str(error).splitlines()[0]
                raise EngineError(f"{self.spec.name} on {self.runtime}: {said}") from None
            self.seconds += time.perf_counter() - started
            if sums is not None and "pixel_sums" in outputs:
                computed["pixel_sums"] = sums
            for name in outputs:
                for place, row in zip(places, computed[name], strict=True):
                    results[name][place] = row
        return {name: np.stack(rows) for name, rows in results.items()}

    def close(self) -> None:
        del self._session

    def _run_on_host(self, _: DeviceImage, outputs: Sequence[str], feed: Feed) -> list[NDArray[Any]]:
        results: list[NDArray[Any]] = self._session.run(outputs, feed)
        return results

    def _run_bound(
        self, image: DeviceImage, outputs: Sequence[str], feed: Feed, *, device: tuple[str, int]
    ) -> list[NDArray[Any]]:
        """Inputs copied to the device, of which the image's pixels stay there; outputs copied back."""
        binding = self._session.io_binding()
        for name, array in feed.items():
            if any(array is own for own in image.images):
                if id(array) not in image.uploads:
                    image.uploads[id(array)] = array, onnxruntime.OrtValue.ortvalue_from_numpy(array, *device)
                value = image.uploads[id(array)][1]
            else:
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array, *device)
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, device[0], device[1])
        self._session.run_with_iobinding(binding)
        results: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return results

    def _feeds(
        self, image: DeviceImage, views: Sequence[tuple[int, View]]
    ) -> Iterator[tuple[list[int], Feed, NDArray[np.int32] | None]]:
        """(places of the views, inputs of one call, pixel sums where the graph has none)."""
        in_graph = self.spec.interface == "views" and self._rescale == "graph"
        for places in self._calls(views, one_source=in_graph):
            own = [views[place] for place in places]
            if self.spec.interface != "views":
                yield places, *self._ready_pixels(image, own)
            else:
                yield places, self._taps(image, own) if in_graph else self._atlas(image, own), None

    def _calls(self, views: Sequence[tuple[int, View]], *, one_source: bool) -> Iterator[list[int]]:
        """Places of views of one size (and, on request, one source), as many as a call should hold."""
        groups: dict[object, list[int]] = {}
        for place, (number, view) in enumerate(views):
            key = (view.size_px, number, view.source) if one_source else view.size_px
            groups.setdefault(key, []).append(place)
        for places in groups.values():
            height, width = views[places[0]][1].size_px
            most = max(1, CALL_PIXELS // (height * width))
            most = min(most, self.spec.max_views or most)
            for start in range(0, len(places), most):
                yield places[start : start + most]

    def _atlas(self, image: DeviceImage, views: Sequence[tuple[int, View]]) -> Feed:
        known: dict[tuple[int, object], int] = {}
        sources: list[Pixels] = []
        for number, view in views:
            if (number, view.source) not in known:
                known[number, view.source] = len(sources)
                sources.append(source_of(image.images[number], view, self.spec, image.rescaled[number]))
        return feed_atlas(sources, [(known[number, view.source], view.cut, view.mirrored) for number, view in views])

    def _taps(self, image: DeviceImage, views: Sequence[tuple[int, View]]) -> Feed:
        number, first = views[0]
        if first.resize_px is not None:
            return self._atlas(image, views)
        pixels, preprocessing = image.images[number], self.spec.preprocessing
        size = rescaled_px((pixels.shape[0], pixels.shape[1]), first.short_side_px, preprocessing.long_side_rounding)
        return feed_taps(pixels, size, preprocessing.filter, [(view.cut, view.mirrored) for _, view in views])

    def _ready_pixels(
        self, image: DeviceImage, views: Sequence[tuple[int, View]]
    ) -> tuple[Feed, NDArray[np.int32] | None]:
        pixels = np.stack(
            [render(image.images[number], [view], self.spec, image.rescaled[number])[0] for number, view in views]
        )
        if self.spec.interface == "images":
            return {"images": pixels}, None
        return {"input": normalise(pixels, self.spec)}, pixel_sums(pixels)

"""ONNX Runtime as an engine, for the three interfaces of a model that export.to_onnx or export.from_onnx wrote."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from numpy.typing import NDArray

from .engine import (
    HOST,
    INT8_IN_FP32,
    UNROUNDED,
    DeviceImage,
    EngineError,
    Outputs,
    Provider,
    check_answers,
    check_graph,
    check_outputs,
    in_order,
    load_on_host,
    rounded_by,
)
from .files import files_sha256
from .graph_inputs import Call, Feed, feed_atlas, feed_pixels, feed_taps, profile_entries, stack_sources
from .model_file import CHECK_OF, check_file, external_files, is_quantised
from .model_file import metadata as read_metadata
from .pixels.decode import Pixels
from .processes.pipeline import ahead
from .spec import ModelSpec, SpecError
from .tensorrt.calls import make_calls
from .views import NumberedView, ShapeRange, ViewPlan, default_shapes, numbered_views, rescaled_px

log = logging.getLogger(__name__)

PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

CUDA_OPTIONS = {
    "use_tf32": "0",  # on by default: FP32 would be computed with 10 bits of mantissa
    "cudnn_conv_algo_search": "HEURISTIC",  # the default times all of them, up to a second for each new shape
}
"""What the CUDA provider is told. Its `prefer_nhwc` is left off: whether it helps has not been measured."""
NO_TF32 = "NVIDIA_TF32_OVERRIDE"
"""Variable by which NVIDIA's libraries leave TF32 alone; the TensorRT provider has no option for it (ONNX Runtime issue
26029)."""

AS_WRITTEN = ("session.disable_quant_qdq", "1")
"""The entry of a session by which ONNX Runtime makes no integer layers of QuantizeLinear and DequantizeLinear.

Its own saturate on a CPU without VNNI, and it quantises weights once more that are in FP32 between such layers
(onnxruntime_session_options_config_keys.h; qdq_transformer/weight_bias_quantization.h)."""
NOTHING: Mapping[str, str] = {}

CALL_PIXELS = 10 * 224 * 224
"""Pixels of views in one call on a CPU: VGG-D takes 0.20 s a crop up to ten crops a call and 0.24 at fifty."""


class OnnxEngine:
    """Implements `engine.Engine`. On the CPU images are rescaled by Pillow, elsewhere by the graph.

    The CPU's provider keeps half activations in FP32. So there an FP16 model is opened by its check graph, the file
    with CHECK in place of .onnx, which rounds each of them by casts that stay (export/model/precision.py). In that of
    an INT8 model convolutions are integers, too (export/model/integers.py).

    On a GPU an image is uploaded once for all scales, protocols and models of a process, by IOBinding.

    The TensorRT provider builds a plan for one range of shapes, so there is a session for each of `shapes`, opened when
    its first call comes, and calls are made as for a plan of ours. The plans are kept: see `plan_folder`.
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
        check = check_file(path) if provider == "cpu" else None
        self._open = functools.partial(_open_session, check or path, provider, device, threads)
        self._by_profile = provider == "tensorrt"
        self._session: Any = None  # the TensorRT provider's needs the shapes
        metadata: Mapping[str, str] = {}
        if self._by_profile:
            metadata = read_metadata(path)
        else:
            self._session = self._open()
            metadata = self._session.get_modelmeta().custom_metadata_map

        self._self_test: str = metadata.get("self_test", "null")
        if "spec" not in metadata:
            raise EngineError(f"{path}: an ONNX model without our spec: import it with python -m export.from_onnx")
        try:
            self.spec = ModelSpec.from_json(metadata["spec"])
            self.shapes: tuple[ShapeRange, ...] = default_shapes(self.spec, largest_short_px)
        except SpecError as error:
            raise EngineError(f"{path}: {error}") from None
        self.sha256 = files_sha256([path, *external_files(path), *([check] if check else [])])

        self._sessions: dict[int, Any] = {}  # by profile
        if self._by_profile:
            self._session = self._session_for(0)
        check_graph(path, self.spec, {output.name: output.shape for output in self._session.get_outputs()})

        self.runtime = f"onnxruntime-{self.spec.precision}"
        self.arithmetic: str = self.spec.precision
        if CHECK_OF in metadata:
            self.arithmetic = rounded_by((check or path).name, self.spec.precision)
        elif provider == "cpu" and self.spec.precision == "fp16":
            self.arithmetic = UNROUNDED
        elif provider == "cpu" and is_quantised(path):
            self.arithmetic = INT8_IN_FP32
        self.seconds = 0.0
        self.device = HOST if provider == "cpu" else f"cuda:{device}"
        self._bound_to: tuple[str, int] | None = None if provider == "cpu" else ("cuda", device)
        place = rescale or ("host" if provider == "cpu" else "graph")
        self._graph_rescales = self.spec.interface == "views" and place == "graph"

    @property
    def self_test(self) -> Any:
        """The right answers that the model carries, for infer.self_test.check; None where it carries none."""
        try:
            return json.loads(self._self_test)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"self-test of {self.spec.name}: damaged ({error}): export it again") from None

    def load(self, images: Sequence[Pixels]) -> DeviceImage:
        return load_on_host(images)

    def run(self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)) -> Outputs:
        """Implements Engine.run. Raises EngineError.

        A view below the net's crop is refused, since it would crash the runtime, and one of another size where the
        net's is fixed.
        """
        check_outputs(self.spec, outputs)
        views = numbered_views(plans)
        self._check_sizes(views)
        in_graph = [name for name in outputs if name != "pixel_sums" or self.spec.interface != "nchw"]

        parts: list[tuple[Sequence[int], Outputs]] = []
        calls = make_calls(image, plans, self.spec, self.shapes) if self._by_profile else self._calls(image, views)
        for call in ahead(calls):  # the next call's inputs are made while this one runs
            session = self._session_for(call.profile)
            started = time.perf_counter()
            try:
                computed = dict(zip(in_graph, self._compute(session, image, in_graph, call.feed), strict=True))
            except Exception as error:  # onnxruntime has a class of its own for each failure
                said = str(error).splitlines()[0]
                raise EngineError(f"{self.spec.name} on {self.runtime}: {said}") from None
            self.seconds += time.perf_counter() - started
            check_answers(self.spec, computed, len(call.places))
            if call.sums is not None:
                computed["pixel_sums"] = call.sums
            parts.append((call.places, computed))
        return in_order(parts, outputs)

    def close(self) -> None:
        self._sessions.clear()
        del self._session

    def _check_sizes(self, views: Sequence[NumberedView]) -> None:
        crop = self.spec.crop_px
        for height, width in dict.fromkeys(view.size_px for _, view in views):
            if min(height, width) < crop:
                raise EngineError(
                    f"view of {height}x{width} px is smaller than the {crop} px that {self.spec.name} needs: "
                    "use a larger scale"
                )
            if self.spec.fixed_size and (height, width) != (crop, crop):
                raise EngineError(
                    f"view of {height}x{width} px: {self.spec.name} takes only {crop}x{crop} px: use a protocol of "
                    "crops, like multicrop"
                )

    def _session_for(self, profile: int) -> Any:
        """The session that takes calls of this profile."""
        if not self._by_profile:
            return self._session
        if profile not in self._sessions:
            self._sessions[profile] = self._open(tensorrt_options(self.spec, self.shapes[profile], self.sha256))
        return self._sessions[profile]

    def _compute(self, session: Any, image: DeviceImage, outputs: Sequence[str], feed: Feed) -> list[NDArray[Any]]:
        results: list[NDArray[Any]]
        if self._bound_to is None:
            results = session.run(outputs, feed)
            return results

        # Inputs are copied to the device, where the image's pixels stay; outputs are copied back.
        binding = session.io_binding()
        for name, array in feed.items():
            known = image.uploads.get(id(array))
            value = known[1] if known else onnxruntime.OrtValue.ortvalue_from_numpy(array, *self._bound_to)
            if any(array is own for own in image.images):
                image.uploads[id(array)] = array, value
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, *self._bound_to)
        session.run_with_iobinding(binding)
        results = binding.copy_outputs_to_cpu()
        return results

    def _calls(self, image: DeviceImage, views: Sequence[NumberedView]) -> Iterator[Call]:
        for places in self._places(views):
            own = [views[place] for place in places]
            if self.spec.interface == "views":
                yield Call(places, self._taps(image, own) if self._graph_rescales else self._atlas(image, own))
            else:
                yield Call(places, *feed_pixels(image.render(own, self.spec), self.spec))

    def _places(self, views: Sequence[NumberedView]) -> Iterator[list[int]]:
        """Places of views that share a call: of one size (of one source, where the graph rescales it), not too many."""
        groups: dict[object, list[int]] = {}
        for place, (number, view) in enumerate(views):
            key = (view.size_px, number, view.source) if self._graph_rescales else view.size_px
            groups.setdefault(key, []).append(place)

        for places in groups.values():
            height, width = views[places[0]][1].size_px
            most = max(1, CALL_PIXELS // (height * width))
            most = min(most, self.spec.max_views or most)
            for start in range(0, len(places), most):
                yield places[start : start + most]

    def _atlas(self, image: DeviceImage, views: Sequence[NumberedView]) -> Feed:
        """Inputs for views of images that the host rescales."""
        cuts, sources = [], {}
        for number, view in views:
            key = (number, view.source)
            cuts.append((key, view.cut, view.mirrored))
            if key not in sources:
                sources[key] = image.source(number, view, self.spec)
        return feed_atlas(sources, stack_sources((key, rect) for key, rect, _ in cuts), cuts)

    def _taps(self, image: DeviceImage, views: Sequence[NumberedView]) -> Feed:
        """Inputs for views of one image and scale, which the graph rescales; GoogLeNet's resized square it cannot."""
        number, first = views[0]
        if first.resize_px is not None:
            return self._atlas(image, views)
        pixels, preprocessing = image.images[number], self.spec.preprocessing
        size = rescaled_px((pixels.shape[0], pixels.shape[1]), first.short_side_px, preprocessing.long_side_rounding)
        return feed_taps(pixels, size, preprocessing.filter, [(view.cut, view.mirrored) for _, view in views])


def tensorrt_options(spec: ModelSpec, shape: ShapeRange, sha256: str) -> dict[str, str]:
    """Options of the TensorRT provider for calls of one profile of a model, which has this digest.

    Without the shapes it would build a new plan whenever a call leaves the sizes that it has seen. Built plans are kept
    for the next process.
    """
    options = {}
    entries = profile_entries(shape, spec.interface)
    for place, bound in enumerate(("min", "opt", "max")):
        sizes = (f"{name}:{'x'.join(map(str, entry[place]))}" for name, entry in entries.items())
        options[f"trt_profile_{bound}_shapes"] = ",".join(sizes)
    if spec.precision != "fp32":
        options["trt_fp16_enable"] = "1"  # a graph in half is refused without
    if spec.precision == "int8":
        options["trt_int8_enable"] = "1"  # so is one with QuantizeLinear

    folder = plan_folder(sha256, options)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
        if status.st_mode & 0o022 or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
            raise PermissionError(errno.EPERM, "others can write there, and loading a plan runs code from it")
    except OSError as error:
        log.warning("%s: TensorRT's plans are not kept there (%s): every start builds them", folder, error.strerror)
        return options
    return options | {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}


def plan_folder(sha256: str, options: Mapping[str, str]) -> Path:
    """The folder for a model's plans: of this digest, this ONNX Runtime, these options.

    ONNX Runtime tells plans apart by the names in a graph, not by its weights: two trainings of a net would share one.
    """
    said = json.dumps([sha256, onnxruntime.__version__, options], sort_keys=True)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "verydeep" / "onnxruntime-tensorrt" / hashlib.sha256(said.encode()).hexdigest()[:24]


def _open_session(
    path: Path, provider: Provider, device: int, threads: int, tensorrt: Mapping[str, str] = NOTHING
) -> Any:
    """ONNX Runtime with this provider, with CUDA beside TensorRT. Raises EngineError."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if is_quantised(path):
        options.add_session_config_entry(*AS_WRITTEN)

    wanted: list[Any] = [PROVIDERS["cpu"]]
    if provider != "cpu":
        os.environ[NO_TF32] = "0"  # read when a library starts: before the first session
        wanted = [(PROVIDERS["cuda"], {"device_id": str(device), **CUDA_OPTIONS})]
    if provider == "tensorrt":
        wanted.insert(0, (PROVIDERS["tensorrt"], {"device_id": str(device), **tensorrt}))

    loaded = onnxruntime.get_available_providers()  # compiled in, which does not mean that they load
    session = None
    try:
        if PROVIDERS[provider] in loaded:
            session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
            loaded = session.get_providers()
    except Exception as error:  # onnxruntime has a class of its own for each failure
        raise EngineError(f"{path}: not a model that can be opened ({str(error).splitlines()[0]})") from None
    if session is None or PROVIDERS[provider] not in loaded:
        raise EngineError(
            f"{path}: ONNX Runtime did not load its {provider} provider, only {', '.join(loaded)}: "
            "install onnxruntime-gpu and its CUDA libraries, or use --provider cpu"
        )
    return session

"""One builder for TensorRT and TensorRT-RTX: an ONNX graph and its profiles in, a plan and what its log says out.

FP16 is a property of the graph: builders of either kind take it as it is (strongly typed), and one that is given a
single-precision graph builds a single-precision engine without a word. So is INT8: a layer's image and weights come
from DequantizeLinear. So the precisions are counted, and compared with the kernels that the builder's log lists. The
log is read as text, of the forms that TensorRT-RTX 1.7 writes.

TensorRT is imported inside functions. The TensorRT-RTX branch is tested. TensorRT itself cannot be installed where this
was written: its branch makes the same calls, whose names were checked against the bindings of 10.3 and 11.4.

In what the libraries differ says the table infer/tensorrt/library.py. No option is left out without a word: it acts,
is refused, or (a timing cache where no kernel is timed) is said to do nothing. TensorRT has all options; they are
written from its documentation and have not run here.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from tqdm import tqdm

from infer.cuda.driver import gpu_present
from infer.engine import version_numbers
from infer.errors import Refused, UsageError
from infer.graph_inputs import profile_entries
from infer.spec import ModelSpec, Precision
from infer.tensorrt.library import LIBRARIES, Library
from infer.tensorrt.log import messages
from infer.views import ShapeRange

HardwareCompatibility = Literal["ampere+", "same-compute-capability"]
HARDWARE: dict[HardwareCompatibility, str] = {
    "ampere+": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
"""GPUs that a plan runs on beside the one it was built on, by TensorRT's names."""

LEVELS = range(6)
"""Optimisation levels: how long the builder searches for faster kernels."""

DEFAULT_TARGETS = range(75, 121)
"""Compute capabilities that an engine is built for where there is no GPU, as far as the library knows them."""


class BuildError(Refused):
    """An engine that cannot be built; one line: got, expected, do this."""


class OptionError(UsageError):
    """An option of the command line that this library does not have; one line."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of a build; None and False stand for the library's own default."""

    workspace_mb: int | None = None  # memory that a kernel may need while it runs
    optimization_level: int | None = None  # of LEVELS
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: HardwareCompatibility | None = None

    def as_json(self) -> dict[str, Any]:
        """The entry `options` of a sidecar."""
        values = dataclasses.asdict(self)
        return {**values, "timing_cache": self.timing_cache and str(self.timing_cache)}


def choose_library(choice: Literal["auto", "tensorrt", "tensorrt-rtx"]) -> Library:
    """The library asked for, or the first that is installed. Raises BuildError naming the installs."""
    candidates = [library for name, library in LIBRARIES.items() if choice in ("auto", name)]
    for library in candidates:
        try:
            version = str(importlib.import_module(library.module).__version__)
        except ImportError:
            continue
        if version_numbers(version) < library.oldest:
            oldest = ".".join(map(str, library.oldest))
            raise BuildError(
                f"{library.name} {version} is too old, expected {oldest} or newer: pip install {library.name} -U"
            )
        return library

    installs = "  or  ".join(f"pip install {library.name}" for library in candidates)
    raise BuildError(f"{' and '.join(library.name for library in candidates)} cannot be imported: {installs}")


def choose_targets(library: Library, asked: Sequence[str]) -> tuple[str, ...]:
    """The GPUs to build for: those asked for, or the one present, or (TensorRT-RTX) all of DEFAULT_TARGETS.

    Raises OptionError for a target that is none or that this library cannot build for, BuildError where TensorRT finds
    no GPU or TensorRT-RTX does not know the GPU.
    """
    present = gpu_present()

    # TensorRT builds for the GPU present alone
    if not library.just_in_time and asked:
        raise OptionError(
            f"--target: {library.name} tunes kernels on the GPU it builds for and cannot build for another: "
            "leave it out, or use --builder tensorrt-rtx"
        )
    if not library.just_in_time:
        if present is None:
            raise BuildError(
                f"{library.name} builds on the GPU that the engine is for, and there is none here: run it there, or "
                "use --builder tensorrt-rtx --target ..."
            )
        return (present,)

    # TensorRT-RTX builds for every GPU that it knows
    members = importlib.import_module(library.module).ComputeCapability.__members__
    known = sorted((name.lower() for name in members if re.fullmatch(r"SM\d+", name)), key=_capability)
    for target in asked:
        if target not in known:
            raise OptionError(f"--target: {library.name} does not know {target!r}, only {', '.join(known)}")
    if asked:
        return tuple(target for target in known if target in asked)
    if present is None:
        return tuple(target for target in known if _capability(target) in DEFAULT_TARGETS)
    if present not in known:
        raise BuildError(
            f"{library.name} does not run on the {present} GPU here, only on {', '.join(known)}: "
            "use --builder tensorrt, or name other GPUs with --target"
        )
    return (present,)


def check_options(library: Library, options: BuildOptions) -> tuple[BuildOptions, list[str]]:
    """(the options that act, lines about the others). Raises OptionError for one that the library, or its version,
    lacks."""
    for name, reason in library.refuses.items():
        if getattr(options, name) is not None and getattr(options, name) is not False:  # level 0 is a level
            raise OptionError(f"{flag(name)}: {library.name} {reason}")
    if options.hardware_compatible is not None:
        _hardware_level(importlib.import_module(library.module), options.hardware_compatible)

    if options.timing_cache is not None and library.just_in_time:
        said = f"{flag('timing_cache')} {options.timing_cache}: {library.name} times no kernels, so it is not written"
        return dataclasses.replace(options, timing_cache=None), [said]
    return options, []


def set_options(trt: Any, config: Any, options: BuildOptions) -> Any:
    """Sets the options on a builder's config. Returns the timing cache, to be kept until the build is over, or None.

    Raises BuildError for a timing cache that cannot be used.
    """
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible is not None:
        config.hardware_compatibility_level = _hardware_level(trt, options.hardware_compatible)

    path = options.timing_cache
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise BuildError(f"{path}: not a timing cache of this version and this GPU: remove it, or name another file")
    return cache


def _hardware_level(trt: Any, asked: HardwareCompatibility) -> Any:
    """TensorRT's value for GPUs beside the one present. Raises OptionError: 10.3 has AMPERE_PLUS alone."""
    levels = trt.HardwareCompatibilityLevel
    if not hasattr(levels, HARDWARE[asked]):
        known = ", ".join(name for name, own in HARDWARE.items() if hasattr(levels, own))
        raise OptionError(
            f"{flag('hardware_compatible')} {asked}: tensorrt {trt.__version__} does not know it, only {known}: use "
            "that, or a newer TensorRT"
        )
    return getattr(levels, HARDWARE[asked])


def flag(name: str) -> str:
    """The option of the command line that sets a field of BuildOptions."""
    return "--" + {"workspace_mb": "workspace"}.get(name, name).replace("_", "-")


def _capability(target: str) -> int:
    return int(target.removeprefix("sm"))


NO_OTHERS: Mapping[str, Precision] = {}
LOGGED: dict[Precision, str] = {"fp16": "Half", "fp32": "Float", "int8": "Int8"}
"""The word for each precision in the builder's log."""


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A serialised engine, with what the parsed network and the builder's log say of it.

    Tensors are the outputs of the network's layers. The log lists `kernels` that hold weights of convolutions, all of
    the right precision; `activation_bytes` has a number for each profile, None where the log does not say it.
    """

    data: bytes
    builder: str
    half_tensors: int
    float_tensors: int
    convolutions: int
    kernels: int
    activation_bytes: tuple[int | None, ...]
    timing_cache: bytes | None = None
    others: tuple[str, ...] = ()  # convolutions of another precision than the graph's: "2 in fp32"
    remarks: tuple[str, ...] = ()  # on a log that nobody here has seen


class Kernel(NamedTuple):
    """A kernel of the engine: the convolutions whose weights it holds, and their types, like "Half"."""

    layers: tuple[str, ...]
    weights: frozenset[str]


def build(
    library: Library,
    path: Path,
    spec: ModelSpec,
    shapes: Sequence[ShapeRange],
    targets: Sequence[str],
    options: BuildOptions = BuildOptions(),
    stop: threading.Event | None = None,
    others: Mapping[str, Precision] = NO_OTHERS,
) -> BuiltPlan:
    """Builds the ONNX model `path`, one optimisation profile for each of `shapes`; shows a bar on a terminal.

    stop: ends the build once it is set, see `interruptible`. others: layers of another precision than the spec's, as
    Source.others has them. Raises BuildError with the library's own words where it refuses, and for a convolution of
    another precision than it should be, in the network or, where the form of the log is known, among its kernels.
    """
    trt = importlib.import_module(library.module)
    log = messages(trt)
    with log.recording():
        try:
            builder = trt.Builder(log.logger)
            network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            parser = trt.OnnxParser(network, log.logger)
        except (TypeError, RuntimeError) as error:  # what the bindings make of a null pointer
            raise BuildError(f"{library.name} cannot start: {log.said() or error}") from None

        if not parser.parse(_model(path, shapes), str(path)):
            errors = (parser.get_error(i) for i in range(parser.num_errors))
            said = "; ".join(f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors)
            raise BuildError(f"{path}: {library.name} cannot read it: {' '.join(said.split()) or log.said()}")
        outputs, convolutions = _tensor_types(trt, network)
        expected = {name: others.get(name, spec.precision) for name in convolutions}
        for precision in dict.fromkeys((spec.precision, *others.values())):
            these = [(name, kind) for name, kind in convolutions.items() if expected[name] == precision]
            _check(path, "convolutions", these, precision)
        if spec.precision == "fp16" and "Half" not in outputs:
            raise BuildError(f"{path}: no half tensor in the network, although its spec says fp16: export it again")

        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # types of kernels in the log, names for profilers
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: FP32 would be 10 bits of mantissa
        timing_cache = set_options(trt, config, options)
        for shape in shapes:
            profile = builder.create_optimization_profile()
            for name, entry in profile_entries(shape, spec.interface).items():
                profile.set_shape(name, *entry)
            if config.add_optimization_profile(profile) < 0:
                raise BuildError(f"{path}: {library.name} refused profile {shape.explain()}: {log.said()}")
        if library.just_in_time:
            config.num_compute_capabilities = len(targets)
            for index, target in enumerate(targets):
                config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)

        with progress_bar() as bar:
            monitor = progress_monitor(
                trt, bar, stop or threading.Event()
            )  # lives as long as the config, which does not own it
            config.progress_monitor = monitor
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            limit = f" within --workspace {options.workspace_mb}" if options.workspace_mb is not None else ""
            raise BuildError(f"{path}: {library.name} could not build it{limit}: {log.errors()}")

    # The log says more than the library: which kernels there are, and what memory they need.
    kernels = convolution_kernels(log.lines, set(convolutions))
    remarks = []
    for precision in dict.fromkeys((spec.precision, *others.values())):
        own = [kernel for kernel in kernels if _precision_of(kernel, expected, spec) == precision]
        found = [(", ".join(kernel.layers), "/".join(sorted(kernel.weights))) for kernel in own]
        try:
            _check(path, "kernels of convolutions in the builder's log", found, precision)
        except BuildError as error:
            if library.log_is_known:
                raise
            remarks.append(f"{error} (the log of {library.name} may be read wrongly here: the network is the proof)")
    return BuiltPlan(
        bytes(plan),
        f"{library.name} {trt.__version__}",
        outputs.count("Half"),
        outputs.count("Float"),
        len(convolutions),
        len(kernels),
        activation_bytes(log.lines, len(shapes)),
        None if timing_cache is None else bytes(timing_cache.serialize()),
        tuple(f"{n} in {other}" for other, n in Counter(expected.values()).items() if other != spec.precision),
        tuple(remarks),
    )


def _model(path: Path, shapes: Sequence[ShapeRange]) -> bytes:
    """The model, whose views are regions where the shapes have them."""
    from ..graph.frame import add_regions  # imports onnx
    from ..model.file import read_graph

    model = read_graph(path)
    if shapes[0].lines is not None:
        add_regions(model)
    return model.SerializeToString()


def _precision_of(kernel: Kernel, expected: Mapping[str, Precision], spec: ModelSpec) -> Precision:
    """The precision that the layers of a kernel should have: the graph's, unless all are of the same other one."""
    own = {expected[layer] for layer in kernel.layers}
    return own.pop() if len(own) == 1 else spec.precision


def _tensor_types(trt: Any, network: Any) -> tuple[list[str], dict[str, str]]:
    """Types of all layers' outputs; the one type of all that a convolution reads and writes, or "mixed".

    A convolution whose image and weights are both made of integers, by a DequantizeLinear each, is "Int8".
    """
    names = {trt.DataType.HALF: "Half", trt.DataType.FLOAT: "Float"}
    dequantised = set[str]()
    outputs: list[str] = []
    convolutions: dict[str, str] = {}
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        own = [names.get(layer.get_output(i).dtype, "") for i in range(layer.num_outputs)]
        outputs += own
        if layer.type == trt.LayerType.DEQUANTIZE:
            dequantised.add(layer.get_output(0).name)
        if layer.type == trt.LayerType.CONVOLUTION:
            # weights are an input, or a constant of the input's type: strongly typed networks allow no other
            inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
            own += [names.get(tensor.dtype, "") for tensor in inputs if tensor is not None]
            convolutions[layer.name] = own[0] if len(set(own)) == 1 else "mixed"
            if len(inputs) > 1 and all(tensor is not None and tensor.name in dequantised for tensor in inputs[:2]):
                convolutions[layer.name] = "Int8"
    return outputs, convolutions


def _check(path: Path, what: str, found: Sequence[tuple[str, str]], precision: Precision) -> None:
    """Raises BuildError for one of the (name, type) `found` that is not of this precision."""
    wrong = [(name, kind) for name, kind in found if kind != LOGGED[precision]]
    if wrong:
        raise BuildError(
            f"{path}: {len(wrong)} of {len(found)} {what} are not {precision}, first {wrong[0][0]} ({wrong[0][1]}): "
            f"precision is a property of the graph, so export it again with --precision {precision}"
        )


def activation_bytes(lines: Sequence[str], profiles: int) -> tuple[int | None, ...]:
    """Bytes of activations of each profile.

    TensorRT-RTX 1.7 logs `Constructing optimization profile number 0 [1/3].`, then what it does for this profile, then
    `Total Activation Memory: 404702720 bytes`; once each, whatever the number of targets.
    """
    found: dict[int, int] = {}
    current = 0
    for line in lines:
        if match := re.search(r"Constructing optimization profile number (\d+)", line):
            current = int(match[1])
        elif match := re.search(r"Total Activation Memory: (\d+)", line):
            found[current] = int(match[1])
    return tuple(found.get(profile) for profile in range(profiles))


def convolution_kernels(lines: Sequence[str], convolutions: set[str]) -> list[Kernel]:
    """The kernels that the log's list of layers says hold weights of `convolutions`, once for each profile.

    With DETAILED verbosity a build ends with a line for each kernel: `Name: conv1_1_myl1_5, LayerType: correlation,
    Inputs: [...], Constants: [ { ..., Dimensions: [8,4,3,3], ..., Datatype: Half, ... }, ...], Outputs: [...], ...,
    Metadata: [ONNX Layer: conv1_1][ONNX Layer: relu1_1]`. Kernels that pad or shuffle a convolution's input name it
    too; what tells them apart are the weights, constants with two or more dimensions above 1. (A kernel's two scale
    factors are single Floats in FP16 as well.) Not tried: TensorRT's own kernels say `Weights: {"Type": "Half", ...}`
    in its guide to the engine inspector.
    """
    kernels = []
    for line in lines:
        if not line.startswith("Name: "):
            continue
        layers = tuple(name for name in re.findall(r"\[ONNX Layer: ([^\]]*)\]", line) if name in convolutions)

        weights = set(re.findall(r'Weights: \{ ?"?Type"?: "?(\w+)', line))
        constants = re.search(r"Constants: \[(.*?)\], Outputs: ", line)
        described = re.findall(r"Dimensions: \[([\d,]*)\].*?Datatype: (\w+)", constants[1] if constants else "")
        for dimensions, kind in described:
            if sum(size not in ("", "1") for size in dimensions.split(",")) > 1:
                weights.add(kind)

        if layers and weights:
            kernels.append(Kernel(layers, frozenset(weights)))
    return kernels


Result = TypeVar("Result")


# Progress, and Ctrl-C: the builder runs for seconds to minutes without returning to Python, so that no signal would be
# handled. So it is left to a thread, while the main thread waits, takes the signal and tells the monitor, whose next
# answer stops the build.


class Phases:
    """Phases of a build within each other, and the share of the whole that is done."""

    def __init__(self) -> None:
        self.active: dict[str, _Phase] = {}
        self.done = 0.0  # never goes back

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self.active[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, index: int) -> None:
        if name in self.active:
            self.active[name].finished = index + 1
        self._update()

    def finish(self, name: str) -> None:
        phase = self.active.pop(name, None)
        if phase is not None and phase.parent is None:
            self.done = 1.0

    def _update(self) -> None:
        roots = [name for name, phase in self.active.items() if phase.parent is None]
        self.done = max([self.done, *map(self._share, roots)])

    def _share(self, name: str) -> float:
        """Steps that are done, and as part of the next one the phases within."""
        phase = self.active[name]
        within = [self._share(child) for child, other in self.active.items() if other.parent == name]
        return min((phase.finished + min(sum(within), 1.0)) / phase.steps, 1.0)


class _Phase:
    def __init__(self, parent: str | None, steps: int) -> None:
        self.parent, self.steps, self.finished = parent, steps, 0


def progress_monitor(trt: Any, bar: tqdm[Any], stop: threading.Event) -> Any:
    """A progress monitor that moves `bar` (of 1.0) and ends the build once `stop` is set. TensorRT calls it from
    several threads at once; it must not raise."""
    phases, lock = Phases(), threading.Lock()

    def __init__(self: Any) -> None:
        trt.IProgressMonitor.__init__(self)

    def phase_start(self: Any, name: str, parent: str | None, steps: int) -> None:
        with lock:
            phases.start(name, parent, steps)

    def step_complete(self: Any, name: str, index: int) -> bool:
        with lock:
            phases.step(name, index)
            bar.update(phases.done - bar.n)
        return not stop.is_set()

    def phase_finish(self: Any, name: str) -> None:
        with lock:
            phases.finish(name)
            bar.update(phases.done - bar.n)

    methods = (__init__, phase_start, step_complete, phase_finish)
    return type("Monitor", (trt.IProgressMonitor,), {method.__name__: method for method in methods})()


def progress_bar() -> tqdm[Any]:
    """A bar on a terminal, none in a pipe."""
    return tqdm(total=1.0, desc="building", disable=None, leave=False, bar_format="{desc} {percentage:3.0f} %|{bar}|")


def interruptible(work: Callable[[threading.Event], Result]) -> Result:
    """`work(stop)` in a thread of its own; Ctrl-C sets `stop`, waits for `work` to end and is raised here."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            future = pool.submit(work, stop)
            while not wait([future], timeout=0.2).done:
                pass  # but handle the signals that came meanwhile, whichever thread took them
            return future.result()
        except BaseException:
            stop.set()
            raise

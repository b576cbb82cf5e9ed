"""TensorRT and TensorRT-RTX as an engine: contexts, profiles, addresses and order; no arithmetic.

What `start` puts on the GPU runs while the host makes the next image ready; `result` is where it waits, once.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..cuda.driver import Memory
from ..engine import DeviceImage, EngineError, Outputs, check_graph, check_outputs, load_on_host
from ..files import replacing
from ..graph_inputs import Call, inputs_of
from ..pixels.decode import Pixels
from ..spec import ModelSpec
from ..views import ShapeRange, ViewPlan
from .calls import make_calls
from .gpu import Addresses, Gpu, Layout, Output, Pending, Resident, Tensor, aligned, close_gpu, open_gpu
from .graphs import Graphs
from .library import LIBRARIES
from .log import messages
from .sidecar import check_target, import_library, load_plan, read_sidecar


class Bucket(NamedTuple):
    """Sizes of a call: shapes of all outputs, bytes for activations."""

    shapes: dict[str, tuple[int, ...]]
    scratch_bytes: int


@dataclass(slots=True)
class Told:
    """What an execution context was told and keeps: a call's shapes, the bytes that they need, and where all lies."""

    shapes: Any = None
    scratch_bytes: int = 0
    memory: tuple[int, int] = (0, 0)
    addresses: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Loaded:
    """The library's objects for one plan, in the order in which they are made; they go in the reverse one."""

    gpu: Gpu
    cache_file: Path | None
    runtime: Any = None
    engine: Any = None
    config: Any = None
    cache: Any = None
    contexts: dict[int, Any] = field(default_factory=dict)
    graphs: Graphs | None = None

    def give_back(self) -> None:
        """Waits for the GPU, writes the runtime cache and lets everything go, whatever fails on the way."""
        try:
            with self.gpu.lock, self.gpu.device.current():
                try:
                    if self.contexts:
                        self.gpu.drain()
                    if self.graphs is not None:
                        self.graphs.close()
                    if self.cache is not None and self.cache_file is not None:
                        with replacing(self.cache_file) as unfinished:
                            unfinished.write_bytes(bytes(self.cache.serialize()))
                finally:
                    self.contexts.clear()  # one by one, in this order: TensorRT's objects refer to each other
                    self.cache = self.config = self.engine = self.runtime = None
        finally:
            close_gpu(self.gpu)


class TensorRTEngine:
    """Implements `engine.Engine` for a plan and its sidecar. Usable from several threads."""

    def __init__(
        self,
        path: Path,
        *,
        device: int = 0,
        runtime_cache: Path | None = None,
        cuda_graphs: bool = False,
        lazy_kernels: bool = False,
    ) -> None:
        """Raises EngineError for a plan that is not its sidecar's, or of another library, version or GPU.

        runtime_cache: file in which TensorRT-RTX keeps the kernels that it compiles on this GPU; cuda_graphs: all
        kernels of a call are launched at once, by TensorRT-RTX for shapes that it knows, by us for tensorrt where the
        shapes stay the same: profiles of fixed sizes, a camera's images.

        lazy_kernels: TensorRT-RTX answers at once, by fallback kernels, while it compiles those for the shapes that it
        sees. The same view then has other last bits later on, so `runtime` says it; without it kernels come first.
        """
        self._sidecar = read_sidecar(path)
        self._trt = import_library(self._sidecar)
        just_in_time = LIBRARIES[self._sidecar.library].just_in_time
        for option, given in (("runtime_cache", runtime_cache), ("lazy_kernels", lazy_kernels)):
            if given and not just_in_time:
                raise EngineError(f"{path}: {option} is of tensorrt-rtx, and this plan is tensorrt's: leave it out")

        self.spec: ModelSpec = self._sidecar.spec
        self.shapes: tuple[ShapeRange, ...] = self._sidecar.shapes
        self.runtime = "-".join([self._sidecar.library, *["lazy"] * lazy_kernels, self.spec.precision])
        self.arithmetic: str = self.spec.precision
        self.sha256 = self._sidecar.identity
        self.self_test = self._sidecar.content.self_test
        self.device = f"cuda:{device}"
        self.seconds = 0.0
        self._buckets: dict[Any, Bucket] = {}
        self._told: dict[int, Told] = {}  # the context of each profile
        self._just_in_time = just_in_time
        self._warm: set[Any] = set()  # what has run: see _warm_up

        self._gpu = open_gpu(device)
        self._loaded = Loaded(self._gpu, runtime_cache)
        self._loaded.graphs = Graphs(self._gpu) if cuda_graphs and not just_in_time else None
        self._finalize = weakref.finalize(self, self._loaded.give_back)  # at exit, where nobody closes

        try:
            with self._gpu.lock, self._gpu.device.current():
                check_target(self._sidecar, self._gpu.device.target, self._gpu.device.name)
                self._loaded.runtime, self._loaded.engine = load_plan(self._trt, self._sidecar)
                if just_in_time:
                    self._loaded.config = self._runtime_config(cuda_graphs=cuda_graphs, lazy=lazy_kernels)
                self._types, self._outputs = self._tensor_types()
        except BaseException:
            self.close()
            raise

    def load(self, images: Sequence[Pixels]) -> DeviceImage:
        """Keeps the images. A plan uploads what it needs of them, which then stays as long as the image."""
        return load_on_host(images)

    def run(self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)) -> Outputs:
        """Implements Engine.run. Raises EngineError, of which CudaError is one."""
        return self.start(image, plans, outputs).result()

    def start(self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)) -> Pending:
        """Puts all work on the GPU and comes back; `result` of what it returns waits. Raises EngineError."""
        check_outputs(self.spec, outputs)
        calls = self._calls(image, plans)

        with self._gpu.lock, self._gpu.device.current():
            if ("resident", self._gpu) not in image.uploads:
                image.uploads["resident", self._gpu] = Resident(self._gpu)
            resident: Resident = image.uploads["resident", self._gpu]
            inputs = resident.put([call.feed for call in calls])

            pending = Pending(self._gpu, image, resident, calls, self._layout(calls, outputs), self._spent)
            pending.run(
                functools.partial(self._warm_up, calls, inputs),
                functools.partial(self._enqueue, calls, inputs),
            )
            return pending

    def close(self) -> None:
        """Gives everything back; twice is no error."""
        self._finalize()

    def _calls(self, image: DeviceImage, plans: Sequence[ViewPlan]) -> list[Call]:
        """The calls for some plans, made once for all engines of the same shapes and preprocessing."""
        key = (tuple(plans), self.shapes, self.spec.preprocessing, self.spec.interface)
        if key not in image.uploads:
            image.uploads[key] = list(make_calls(image, plans, self.spec, self.shapes))
        calls: list[Call] = image.uploads[key]
        return calls

    def _layout(self, calls: Sequence[Call], outputs: Sequence[str]) -> Layout:
        """Places for every output of the plan, as TensorRT wants it."""
        wanted = [name for name in outputs if name in self._types]
        places: list[dict[str, Output]] = [{} for _ in calls]
        offset = 0
        for name in (*wanted, *(name for name in self._outputs if name not in wanted)):
            for call, own in zip(calls, places, strict=True):
                own[name] = Output(offset, self._bucket(call).shapes[name], self._types[name])
                offset += aligned(own[name].nbytes)
        return Layout(places, outputs, offset)

    def _spent(self, seconds: float) -> None:
        self.seconds += seconds

    def _bucket(self, call: Call) -> Bucket:
        """Sizes of a call, which TensorRT is asked for once for each profile and shapes."""
        key = _bucket_key(call)
        if key not in self._buckets:
            context = self._shaped(call)
            shapes = {}
            for name in self._outputs:
                shapes[name] = tuple(self._ask(f"the shape of {name}", context.get_tensor_shape, name))
                self._must(min(shapes[name], default=0) >= 0, f"to say the shape of {name}, only {shapes[name]}")
            check_graph(self._sidecar.path, self.spec, shapes)
            self._buckets[key] = Bucket(shapes, self._told[call.profile].scratch_bytes)
        return self._buckets[key]

    def _warm_up(self, calls: Sequence[Call], inputs: Sequence[Mapping[str, Tensor]], outputs: Addresses) -> None:
        """Runs the first call of each new profile, which loads its kernels, before time counts.

        TensorRT-RTX compiles kernels for each new shape: there the first call of each is run.
        """
        new: dict[Any, int] = {}  # place of the first call of each
        for place, call in enumerate(calls):
            key = _bucket_key(call) if self._just_in_time else call.profile
            if key not in self._warm:
                new.setdefault(key, place)
        places = new.values()
        self._enqueue([calls[p] for p in places], [inputs[p] for p in places], [outputs[p] for p in places])
        self._warm |= new.keys()

    def _enqueue(self, calls: Sequence[Call], inputs: Sequence[Mapping[str, Tensor]], outputs: Addresses) -> None:
        """Puts the calls on the compute stream."""
        scratch = self._gpu.activations(max((self._bucket(call).scratch_bytes for call in calls), default=0) or 1)
        graphs = self._loaded.graphs
        for call, own, addresses in zip(calls, inputs, outputs, strict=True):
            tensors = {name: tensor.address for name, tensor in own.items()} | dict(addresses)
            prepare = functools.partial(self._prepare, call, tensors, scratch)
            execute = functools.partial(self._execute, call)
            if graphs is None:
                prepare()
                execute()
            else:
                graphs.run(*_bucket_key(call), (*tensors.values(), scratch.address), prepare, execute)

    def _prepare(self, call: Call, tensors: Mapping[str, int], scratch: Memory) -> None:
        """Tells the call's context what it does not know yet: shapes, memory, the addresses of tensors."""
        context = self._shaped(call)
        told = self._told[call.profile]

        memory = scratch.address, scratch.nbytes
        if told.memory != memory:
            self._ask("memory for a run", context.set_device_memory, *memory)
            told.memory = memory
        for name, address in tensors.items():
            if told.addresses.get(name) != address:
                what = f"an address for {name}"
                self._must(self._ask(what, context.set_tensor_address, name, address), what)
                told.addresses[name] = address

    def _execute(self, call: Call) -> None:
        """Puts the call that its context was prepared for on the compute stream, and does nothing else."""
        what = f"a run of profile {self.shapes[call.profile].name}"
        execute = self._loaded.contexts[call.profile].execute_async_v3
        self._must(self._ask(what, execute, self._gpu.compute.address), what)

    def _shaped(self, call: Call) -> Any:
        """The context of a call's profile, told the shapes of the call's inputs, for which it lays its memory out.

        With new shapes it is told all else anew. Raises EngineError where it fails, and then nothing counts as told.
        """
        context, key = self._context(call.profile), _bucket_key(call)
        if self._told[call.profile].shapes == key:
            return context

        told = self._told[call.profile] = Told()
        for name, array in call.feed.items():
            what = f"{name} of shape {array.shape}"
            self._must(self._ask(what, context.set_input_shape, name, array.shape), what)
        missing = self._ask("the inputs' shapes, which do not go together", context.infer_shapes)
        self._must(not missing, f"inputs without {', '.join(missing)}")

        what = "to say how much memory a run needs"
        told.scratch_bytes = int(self._ask(what, context.update_device_memory_size_for_shapes))
        self._must(told.scratch_bytes > 0, what)  # 0: it failed
        told.shapes = key
        return context

    def _context(self, profile: int) -> Any:
        if profile not in self._loaded.contexts:
            managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            what = "another execution context"
            create = self._loaded.engine.create_execution_context
            context = self._ask(what, create, self._loaded.config or managed)
            self._must(context is not None, what)

            what, choose = f"profile {profile}", context.set_optimization_profile_async
            self._must(self._ask(what, choose, profile, self._gpu.compute.address), what)
            self._loaded.contexts[profile], self._told[profile] = context, Told()
        return self._loaded.contexts[profile]

    def _runtime_config(self, *, cuda_graphs: bool, lazy: bool) -> Any:
        """TensorRT-RTX's settings for contexts. Without them it would choose kernels lazily."""
        what = "settings for a context"
        config = self._ask(what, self._loaded.engine.create_runtime_config)
        self._must(config is not None, what)

        kernels = self._trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kernels.LAZY if lazy else kernels.EAGER

        managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        config.set_execution_context_allocation_strategy(managed)
        if cuda_graphs:
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE

        file = self._loaded.cache_file
        if file is not None:
            cache = self._loaded.cache = config.create_runtime_cache()
            if file.exists():
                cache.deserialize(file.read_bytes())  # one of another GPU is refused, and replaced
            self._must(config.set_runtime_cache(cache), f"runtime cache {file}")
        return config

    def _tensor_types(self) -> tuple[dict[str, np.dtype[Any]], list[str]]:
        """(types of all inputs and outputs, names of the outputs). Raises EngineError unless the sidecar has these.

        Their channels are compared with the spec's classes where they are fixed, and else when a call's are known.
        """
        engine, on_gpu = self._loaded.engine, self._trt.TensorLocation.DEVICE
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        outputs = [name for name in names if engine.get_tensor_mode(name) == self._trt.TensorIOMode.OUTPUT]
        expected = {name for name in self.spec.outputs if name != "pixel_sums" or self.spec.interface != "nchw"}
        if set(outputs) != expected:
            raise EngineError(
                f"{self._sidecar.path}: has outputs {', '.join(sorted(outputs))}, but its spec says "
                f"{', '.join(sorted(expected))}: {self._sidecar.rebuild}"
            )
        inputs, wanted = set(names) - set(outputs), inputs_of(self.spec.interface, self.shapes[0])
        if inputs != wanted.keys():
            raise EngineError(
                f"{self._sidecar.path}: has inputs {', '.join(sorted(inputs))}, but its sidecar says "
                f"{', '.join(sorted(wanted))}: {self._sidecar.rebuild}"
            )
        for name in names:
            if engine.get_tensor_location(name) != on_gpu:
                raise EngineError(
                    f"{self._sidecar.path}: wants {name} on the host, expected all tensors on the GPU: "
                    f"{self._sidecar.rebuild}"
                )
        check_graph(self._sidecar.path, self.spec, {name: tuple(engine.get_tensor_shape(name)) for name in outputs})
        return {name: np.dtype(self._trt.nptype(engine.get_tensor_dtype(name))) for name in names}, outputs

    def _ask(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """The library's answer. Raises EngineError where the bindings raise an error of their own."""
        try:
            return call(*arguments)
        except (RuntimeError, TypeError, ValueError) as error:
            said = messages(self._trt).said()
            raise EngineError(
                f"{self._sidecar.path}: {self._sidecar.library} refused {what}: {said or error}"
            ) from None

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise EngineError(
                f"{self._sidecar.path}: {self._sidecar.library} refused {what}: {messages(self._trt).errors()}"
            )


def _bucket_key(call: Call) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """(profile, shapes of the inputs)."""
    return call.profile, tuple(array.shape for array in call.feed.values())

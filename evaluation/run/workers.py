"""The makers of a run's shards: this process, one process for each GPU, or the machines of a Ray cluster.

Wherever a shard is made it has the same rows, and whoever collects them takes them in any order. The options of a run
say which it is. A cluster's are Ray Data's actors, one for each GPU, which open the engines once; those of an actor or
a machine that is lost are made again elsewhere. docs/cluster.md has the rest.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import importlib
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Generic, get_args

import pyarrow as pa

from infer.command import Parser, count_argument, whole_argument
from infer.engine import Provider
from infer.errors import Refused, one_line
from infer.pixels.nvjpeg import DecoderName
from infer.processes.cores import usable_cores
from infer.processes.owned import end_with_parent
from infer.spec import Exif

from ..errors import RunError
from .loop import Group, MakerOpener, Rows, Sample, Shard, Worker, group_shards, make_shards

LOCAL_CPUS_PER_ACTOR = 2
"""CPUs of a Ray that is started here: with fewer, Ray Data waits for ever for a CPU for its own tasks."""

OnImages = Callable[[int], object]
"""Hears how many more images are done."""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where engines run, and how a run goes on; `check_run_options` checks them."""
    add = parser.add_argument
    device = (
        "GPUs of this machine, by ordinal; several run one process each, which changes no result (default: 0). With "
        "--provider cpu a number only stands for a process"
    )
    ray = (
        "run on a Ray cluster (docs/cluster.md): the one this machine belongs to, else one of this machine alone, or "
        "the one at ADDRESS"
    )
    actors = "processes of the cluster (default: one for each GPU; with --provider cpu one for each machine)"
    workers = "threads of a process that decode; changes no result (default: the cores, shared by the processes)"
    resume = "go on with the unfinished run, if there is one and it is this one"
    exif = "what is done with the rotation that a camera noted (default: as the model has it)"
    decoder = (
        "what decodes JPEGs: the CPU, or the GPU by nvImageCodec, whose pixels may differ by a grey level, which the "
        "tables say (docs/gpu.md; default: %(default)s)"
    )
    strict = "stop at the first image that cannot be read or seen, instead of counting it wrong"

    add("--provider", choices=get_args(Provider), default="cpu", help="of ONNX Runtime (default: %(default)s)")
    add("--device", type=_devices, metavar="N[,N...]", help=device)
    add("--ray", metavar="auto|ADDRESS", help=ray)
    add("--ray-actors", type=whole_argument, default=0, metavar="N", help=actors)
    add("--workers", type=count_argument, metavar="N", help=workers)
    add("--exif", choices=get_args(Exif), help=exif)
    add("--decoder", choices=get_args(DecoderName), default="cpu", help=decoder)
    add("--resume", action="store_true", help=resume)
    add("--strict", action="store_true", help=strict)


def check_run_options(parser: Parser, args: argparse.Namespace) -> None:
    """Ends with a usage error where options of `add_run_options` exclude each other."""
    if args.ray is not None and args.device is not None:
        parser.error("--ray and --device exclude each other: Ray gives each of its processes a GPU")
    if args.ray is None and args.ray_actors:
        parser.error("--ray-actors is for --ray: add --ray auto, or use --device 0,1")


def decoder_remarks(decoder: DecoderName) -> list[str]:
    """Says of a run what its pixels are, where they are not the CPU decoder's."""
    if decoder == "cpu":
        return []
    return [
        f"decoded by {decoder} (--decoder): pixels may differ by a grey level from those of other runs, and so may "
        "errors that are close"
    ]


def open_crew(
    opener: MakerOpener[Sample, Rows], args: argparse.Namespace, stack: ExitStack
) -> ThisProcess[Sample, Rows] | DeviceProcesses[Sample, Rows] | Cluster[Sample, Rows]:
    """Opens the engines where --device or --ray says (see add_run_options); `stack` closes them.

    Each of the three has `known`, which says what the engines are (see ShardMaker), and `make`, which makes the shards
    at the given starts and says to `on_images` how many more images are done.
    Raises DecoderError, EngineError, PlanError or RunError.
    """
    opener = replace(opener, decoder=args.decoder)
    if args.exif is not None:
        opener = replace(opener, options={**opener.options, "exif": args.exif})
    if args.ray is not None:
        return Cluster(opener, args.ray, args.ray_actors, args.workers, stack)
    devices = args.device or [0]
    if len(devices) > 1:
        return DeviceProcesses(opener, args.workers, devices)
    return ThisProcess(opener, args.workers, devices[0], stack)


def say_interrupted(kept: str) -> int:
    """Says on stderr what a Ctrl-C leaves; returns the exit status."""
    print(one_line(f"interrupted: {kept}, go on by --resume"), file=sys.stderr)
    return 130


class ThisProcess(Generic[Sample, Rows]):
    """The engines open in this process, on one device."""

    def __init__(self, opener: MakerOpener[Sample, Rows], decoders: int | None, device: int, stack: ExitStack) -> None:
        self._maker, self._stack = opener.open(stack, device=device), stack
        self._decoders = decoders or usable_cores()
        self.known = self._maker.known

    def make(self, samples: Sequence[Sample], starts: Sequence[int], on_images: OnImages) -> Iterator[Shard[Rows]]:
        shards = make_shards(self._maker, samples, starts, decoders=self._decoders, on_images=on_images)
        self._stack.callback(shards.close)  # whatever ends the run, no thread goes on waiting for it
        return shards


class DeviceProcesses(Generic[Sample, Rows]):
    """A process for each of `devices`. The engines are opened here too for a moment, to say what they are."""

    def __init__(self, opener: MakerOpener[Sample, Rows], decoders: int | None, devices: Sequence[int]) -> None:
        self._opener, self._decoders, self._devices = opener, decoders, devices
        with ExitStack() as soon:
            maker = opener.open(soon, device=devices[0])
            self.known, self._shard_images = maker.known, maker.shard_images

    def make(self, samples: Sequence[Sample], starts: Sequence[int], on_images: OnImages) -> Iterator[Shard[Rows]]:
        """Makes the shards at `starts`, in any order. Raises RunError where a process dies, as for want of memory."""
        context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, nor torch's threads
        ordinals = context.Queue()
        for device in self._devices:
            ordinals.put(device)
        threads = max(1, usable_cores() // len(self._devices))
        begin = (self._opener, self.known, self._decoders or threads, ordinals, threads)
        groups = group_shards(samples, self._shard_images, starts)

        with concurrent.futures.ProcessPoolExecutor(len(self._devices), context, _begin, begin) as pool:
            try:
                running = {pool.submit(_work, group) for group in itertools.islice(groups, 2 * len(self._devices))}
                while running:
                    done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    running |= {pool.submit(_work, group) for group in itertools.islice(groups, len(done))}
                    for future in done:
                        for shard in future.result():
                            on_images(shard.images)
                            yield shard
            except BrokenProcessPool:
                raise RunError(
                    "a process of --device ended without a word, as when memory runs out: what is done is kept, go on "
                    "with --resume"
                ) from None
            finally:  # whatever ends this, nobody waits for shards that nobody takes
                for process in multiprocessing.active_children():
                    process.terminate()


class Cluster(Generic[Sample, Rows]):
    """A connection to Ray, ended by `close`. Raises EngineError, PlanError or RunError.

    address: of a running cluster ("10.0.0.1:6379"), or "auto": the one that this machine belongs to, or
    else one of this machine alone. actors: 0 for one for each GPU, or on CPUs one for each machine.
    """

    def __init__(
        self, opener: MakerOpener[Sample, Rows], address: str, actors: int, decoders: int | None, stack: ExitStack
    ) -> None:
        try:
            ray: Any = importlib.import_module("ray")
            importlib.import_module("ray.data")
        except ImportError as error:
            raise RunError(f"--ray: Ray is not installed ({error}): pip install 'verydeep[distributed]'") from None

        files = [path.resolve() for path in opener.files]  # for processes with another working directory
        self._ray, self._opener, self._decoders = ray, replace(opener, files=files), decoders
        is_plan = any(path.suffix == ".engine" for path in opener.files)
        self._on_gpu = is_plan or (opener.provider, opener.decoder) != ("cpu", "cpu")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # whatever is lost is made again
        connect = functools.partial(ray.init, logging_level=logging.ERROR, log_to_driver=False)
        try:
            with _silent():
                connect(address=address)
        except (ConnectionError, ValueError, RuntimeError) as error:
            if address != "auto":
                raise RunError(f"--ray {address}: no cluster there ({str(error).splitlines()[0]})") from None
            cpus = max(usable_cores(), LOCAL_CPUS_PER_ACTOR * max(1, actors))
            with _silent():
                connect(num_cpus=cpus, include_dashboard=False)
        stack.callback(ray.shutdown)

        resources = ray.cluster_resources()
        machines = sum(key.startswith("node:") and not key.startswith("node:__") for key in resources)
        gpus = int(resources.get("GPU", 0))
        self._actors = actors or (gpus if self._on_gpu else max(1, machines))
        if self._on_gpu and gpus < max(1, self._actors):
            raise RunError(
                f"--ray: the cluster has {gpus} GPUs, expected {max(1, self._actors)} for these engines: use fewer "
                "--ray-actors, or --provider cpu with .onnx"
            )
        self._per_machine = -(-self._actors // max(1, machines))

        # what the engines are, seen by one of the actors' machines
        remote = ray.remote(num_gpus=1 if self._on_gpu else 0, max_retries=3)(_identify)
        found = ray.get(remote.remote(self._opener))
        if isinstance(found, Refused):
            raise found
        self.known, self._shard_images = found

    def make(self, samples: Sequence[Sample], starts: Sequence[int], on_images: OnImages) -> Iterator[Shard[Rows]]:
        """Makes shards in any order. Raises what the actors raise, as one of our errors."""
        context = self._ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.enable_operator_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the exception says it

        rows = [{"group": pickle.dumps(group)} for group in group_shards(samples, self._shard_images, starts)]
        if not rows:
            return
        worker = pickle.dumps((self._opener, self.known, self._decoders))
        found = self._ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Actor,
            fn_constructor_args=(worker, self._per_machine),
            compute=self._ray.data.ActorPoolStrategy(size=min(self._actors, len(rows))),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            num_gpus=1 if self._on_gpu else 0,
        )
        try:
            for row in found.iter_rows():
                made = pickle.loads(row["made"])
                if isinstance(made, Refused):
                    raise made
                for shard in made:
                    on_images(shard.images)
                    yield shard
        except self._ray.exceptions.RayError as error:
            raise RunError(f"--ray: {str(error).strip().splitlines()[-1]}") from None


class Actor:
    """A worker as Ray Data calls it: tables of one row in, tables of one row out.

    Our own errors come back as rows: what Ray makes of an exception says little, and it tries again.
    """

    def __init__(self, worker: bytes, per_machine: int) -> None:
        self._worker: Worker[Any, Any] | None = None
        try:
            opener, known, decoders = pickle.loads(worker)
            threads = max(1, usable_cores() // per_machine)
            self._worker = Worker(opener, known, decoders or threads, threads=threads)
        except Refused as error:
            self._failure = error

    def __call__(self, table: Any) -> Any:
        made = [self._make(pickle.loads(group)) for group in table["group"].to_pylist()]
        return pa.table({"made": pa.array([pickle.dumps(each) for each in made], pa.large_binary())})

    def _make(self, group: Group[Any]) -> list[Any] | Refused:
        if self._worker is None:
            return self._failure
        try:
            return self._worker(group)
        except Refused as error:
            return error


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's native code says on stderr that it will say less; what fails comes as an exception."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _identify(opener: MakerOpener[Any, Any]) -> tuple[object, int] | Refused:
    """Says what the engines are and how many images a shard has, for the process that collects."""
    try:
        with ExitStack() as soon:
            maker = opener.open(soon)
            return maker.known, maker.shard_images
    except Refused as error:
        return error


_worker: Worker[Any, Any] | None = None


def _begin(opener: MakerOpener[Any, Any], known: object, decoders: int, ordinals: Any, threads: int) -> None:
    """Opens the engines of this process, once. Ctrl-C is for the process that collects, and its end is this one's."""
    global _worker
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = Worker(opener, known, decoders, device=ordinals.get(), threads=threads)


def _work(group: Group[Any]) -> list[Any]:
    assert _worker is not None
    return _worker(group)


def _devices(text: str) -> list[int]:
    names = text.split(",")
    if not all(name.isdigit() for name in names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected different numbers of GPUs like 0,1, got {text!r}")
    return [int(name) for name in names]

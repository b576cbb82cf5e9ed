"""Shards by the machines of a Ray cluster: Ray Data, one actor for each GPU, which opens the engines once.

An actor or a machine that is lost has its tasks made again elsewhere. Order is not Ray's to keep: whoever commits the
shards does. docs/cluster.md has the rest.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic

import pyarrow as pa

from infer.errors import Refused

from ..errors import RunError
from .loop import Group, MakerOpener, Rows, Sample, Shard, Worker, group_shards

LOCAL_CPUS_PER_ACTOR = 2
"""CPUs of a Ray that is started here: with fewer, Ray Data waits for ever for a CPU for its own tasks."""


class Cluster(Generic[Sample, Rows]):
    """A connection to Ray, ended by `close`. Raises EngineError, PlanError or RunError.

    address: of a running cluster ("10.0.0.1:6379"), or "auto": the one that this machine belongs to, or
    else one of this machine alone. actors: 0 for one for each GPU, or on CPUs one for each machine.
    """

    def __init__(
        self, opener: MakerOpener[Sample, Rows], address: str, actors: int, decoders: int, stack: contextlib.ExitStack
    ) -> None:
        try:
            ray: Any = importlib.import_module("ray")
            importlib.import_module("ray.data")
        except ImportError as error:
            raise RunError(f"--ray: Ray is not installed ({error}): pip install 'verydeep[distributed]'") from None

        files = [path.resolve() for path in opener.files]  # for processes with another working directory
        self._ray, self._opener, self._decoders = ray, replace(opener, files=files), decoders
        self._on_gpu = opener.provider != "cpu" or any(path.suffix == ".engine" for path in opener.files)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # whatever is lost is made again
        connect = functools.partial(ray.init, logging_level=logging.ERROR, log_to_driver=False)
        try:
            with _silent():
                connect(address=address)
        except (ConnectionError, ValueError, RuntimeError) as error:
            if address != "auto":
                raise RunError(f"--ray {address}: no cluster there ({str(error).splitlines()[0]})") from None
            cpus = max(os.cpu_count() or 1, LOCAL_CPUS_PER_ACTOR * max(1, actors))
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

    def make(
        self, samples: Sequence[Sample], starts: Sequence[int], on_images: Callable[[int], object]
    ) -> Iterator[Shard[Rows]]:
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
            self._worker = Worker(*pickle.loads(worker), threads=max(1, (os.cpu_count() or 1) // per_machine))
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


@contextlib.contextmanager
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
        with contextlib.ExitStack() as soon:
            maker = opener.open(soon)
            return maker.known, maker.shard_images
    except Refused as error:
        return error

"""The state of a training run: everything that a checkpoint holds and a step changes, and the step itself."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from infer.data.known_images import KnownImages, known_images, with_trained_on
from infer.spec import ModelSpec

from ..checkpoint import Checkpoint, CheckpointError, split_weights
from ..data.batches import TrainingBatch
from ..nets.vgg import FULLY_CONNECTED
from ..nets.zoo import Net
from ..processes import Peers
from ..recipe import Recipe
from .execution import Execution
from .objective import Objective, make_objective
from .schedule import Plateau

FRACTIONS = 2.0**24
"""Of 1, in which the sums of an epoch are counted: below 2^29 such numbers add up without rounding, in whatever order
steps, processes and what a checkpoint kept are added."""


class WeightAverage:
    """The average of the weights over the steps (Polyak and Juditsky 1992; GoogLeNet section 6), for inference.

    `weights` {name: tensor} are the plain mean of the iterates until 1 / (1 - decay) of them, then a moving one. So
    the random start has no weight after the first step; a decay of 1 is Polyak's own plain mean throughout.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: t.detach().clone() for name, t in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, iteration: int) -> None:
        """Takes in the weights after step number `iteration`, from 1."""
        share = max(1 - self.decay, 1 / iteration)
        for name, tensor in net.state_dict().items():
            self.weights[name].lerp_(tensor, share)


class TrainingState:
    """A net with its optimiser, average and schedule between two steps.

    sums f64 [3]: loss, wrong answers and images of the epoch so far, of this process alone; trained_on: the images that
    its steps have seen, and those that the spec knows already.
    """

    def __init__(self, recipe: Recipe, spec: ModelSpec, net: Net, execution: Execution, peers: Peers) -> None:
        self.recipe, self.spec, self.net = recipe, spec, net
        self.execution, self.peers = execution, peers
        self.plateau = Plateau()
        self.epochs_done, self.steps_of_epoch, self.finished = 0, 0, False
        self.sums = torch.zeros(3, dtype=torch.float64, device=peers.device)
        self.trained_on = known_images(spec) or KnownImages()

        if recipe.train_layers == "fully-connected":
            for name, parameter in net.named_parameters():
                parameter.requires_grad_(name.split(".")[0] in FULLY_CONNECTED)

        # The net moves to its device, type and memory format before the optimiser takes its parameters.
        self.objective: Objective = make_objective(net, spec, execution.memory_format).to(peers.device)
        if execution.precision == "fp64":
            self.objective.double()
        net.to(memory_format=execution.memory_format)  # type: ignore[call-overload]
        self.trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.SGD(
            self.trained.values(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.scaler = torch.amp.GradScaler(peers.device.type, enabled=execution.precision == "fp16")
        self.average = WeightAverage(net, recipe.average_decay) if recipe.average == "polyak" else None

        # The module that a step calls: the objective, compiled and shared as asked for.
        self._module: nn.Module = self.objective
        if execution.compile:
            self._module = torch.compile(self._module)  # type: ignore[assignment]
        if peers.world > 1:
            gpu = [peers.device.index] if peers.device.type == "cuda" else None
            self._module = DistributedDataParallel(self._module, device_ids=gpu)

    def step(self, parts: Sequence[TrainingBatch], rate: float, iteration: int) -> None:
        """One step of SGD on a batch in pieces: v = momentum v + gradient + decay w; w -= rate v. iteration: from 1."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()

        # Gradients add up over the pieces; processes exchange them once, with the last one.
        for number, (pixels, shift, target, images_of_part) in enumerate(parts, start=1):
            self.trained_on = self.trained_on.with_more(images_of_part.tolist())
            last = number == len(parts)
            with contextlib.nullcontext() if last or self.peers.world == 1 else self._module.no_sync():  # type: ignore[operator]
                batch = (tensor.to(self.peers.device, non_blocking=True) for tensor in (pixels, shift, target))
                with self.execution.autocast(self.peers.device):
                    loss, wrong = self._module(*batch)
                self.scaler.scale(loss / len(parts)).backward()
            images = torch.full_like(loss, len(target))
            of_step = torch.stack([loss.detach() * images, wrong.to(loss.dtype), images]).double()
            self.sums += torch.round(of_step * FRACTIONS) / FRACTIONS

        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.net, iteration)

    def weights(self) -> dict[str, Tensor]:
        """The weights of inference, with those of the auxiliary heads; not copied."""
        return dict(self.net.state_dict()) if self.average is None else self.average.weights

    def sums_of_epoch(self) -> tuple[float, float, float]:
        """Loss, wrong answers and images of the epoch so far, over all processes, which all call it."""
        loss, wrong, images = self.peers.total(self.sums).tolist()
        return loss, wrong, images

    def checkpoint(self, *, images: int, listing: str) -> Checkpoint:
        """A checkpoint to go on from, its tensors on the host. All processes call it."""
        weights, auxiliary = split_weights({name: _on_host(t.float()) for name, t in self.weights().items()})
        momentum = {name: self.optimizer.state[p].get("momentum_buffer") for name, p in self.trained.items()}

        # The file's weights are FP32 and of inference; where the net's own differ, they are kept beside them.
        exact = self.execution.precision == "fp64"
        others = self.average is not None or exact

        return Checkpoint(
            spec=with_trained_on(self.spec, self.peers.united(self.trained_on)),
            weights=weights,
            auxiliary=auxiliary,
            momentum={name: _on_host(t) for name, t in momentum.items() if t is not None},
            epochs_done=self.epochs_done,
            recipe=self.recipe.to_json(),
            steps_of_epoch=self.steps_of_epoch,
            sums=self.sums_of_epoch(),
            iterate={name: _on_host(t) for name, t in self.net.state_dict().items()} if others else {},
            average={name: _on_host(t) for name, t in self.weights().items()} if exact else {},
            plateau=(self.plateau.drops, self.plateau.best_percent, self.plateau.since_best),
            scaler=dict(self.scaler.state_dict()),
            images=images,
            listing=listing,
            finished=self.finished,
        )

    def restore(self, previous: Checkpoint) -> None:
        """Continues from a checkpoint of the same recipe. Raises CheckpointError where it does not fit."""
        self._check_fit(previous)
        inferred: dict[str, Any] = {**previous.weights, **previous.auxiliary}
        self.net.load_state_dict(previous.iterate or inferred)
        if self.average is not None:
            for name, tensor in (previous.average or inferred).items():
                self.average.weights[name].copy_(tensor)

        for name, buffer in previous.momentum.items():
            parameter = self.trained[name]
            self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
        if previous.scaler and self.scaler.is_enabled():  # either run may be of another precision
            self.scaler.load_state_dict(previous.scaler)

        self.plateau = Plateau(*previous.plateau)
        self.epochs_done, self.steps_of_epoch = previous.epochs_done, previous.steps_of_epoch
        self.finished = previous.finished
        if self.peers.rank == 0:  # the others start from zero: the sums are added up over all
            self.sums.copy_(torch.tensor(previous.sums, dtype=torch.float64))

    def _check_fit(self, previous: Checkpoint) -> None:
        """Raises CheckpointError for a tensor that the net, or the part of it that is trained, does not have so."""
        shapes = {name: t.shape for name, t in self.net.state_dict().items()}
        trained = {name: t.shape for name, t in self.trained.items()}
        every = {**previous.weights, **previous.auxiliary}

        for what, tensors, known in (
            ("weights", every, shapes),
            ("iterate", previous.iterate, shapes),
            ("average", previous.average, shapes),
            ("momentum", previous.momentum, trained),
        ):
            odd = [name for name, t in tensors.items() if known.get(name) != t.shape]
            lacking = [] if what == "momentum" or not tensors else sorted(known.keys() - tensors.keys())
            for name in (*odd, *lacking):
                got = tuple(tensors[name].shape) if name in tensors else "missing"
                expected = tuple(known[name]) if name in known else "no such tensor"
                raise CheckpointError(f"its {what} has {name} {got}, expected {expected}")


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()

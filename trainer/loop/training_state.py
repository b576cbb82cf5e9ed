"""The state of a training run: everything that a checkpoint holds and a step changes, and the step itself."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from infer.data.known_images import KnownImages, known_images, with_trained_on
from infer.spec import ModelSpec

from ..checkpoint import NONE_BEST, Checkpoint, CheckpointError, split_weights
from ..data.batches import TrainingBatch
from ..nets import googlenet_tv
from ..nets.batch_norm import BatchNorm, fold_all, has_norms
from ..nets.vgg import FULLY_CONNECTED
from ..nets.zoo import Net
from ..processes import Peers
from ..recipe import Recipe, RecipeError
from .execution import Execution
from .fine_tuning import NEW_LAYERS
from .objective import Objective, make_objective
from .schedule import Plateau

FRACTIONS = 2.0**24
"""Of 1, in which the sums of an epoch are counted: below 2^29 such numbers add up without rounding, in whatever order
steps, processes and what a checkpoint kept are added."""


FEATURE_NORM = 10.0
"""The norm of features that a recipe's learning rate is for, where the last layer alone is trained."""


class WeightAverage:
    """The average of the weights over the steps (Polyak and Juditsky 1992; GoogLeNet section 6), for inference.

    `weights` {name: tensor} are the plain mean of the iterates until 1 / (1 - decay) of them, then a moving one. So
    the random start has no weight after the first step; a decay of 1 is Polyak's own plain mean throughout. `steps` are
    in it so far.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights: dict[str, Tensor] = {name: t.detach().clone() for name, t in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Takes in the weights after one step more."""
        self.steps += 1
        share = max(1 - self.decay, 1 / self.steps)
        for name, tensor in net.state_dict().items():
            self.weights[name].lerp_(tensor, share)


class TrainingState:
    """A net with its optimiser, average and schedule between two steps.

    sums f64 [3]: loss, wrong answers and images of the epoch so far, of this process alone. best: the epoch with the
    best validation, its error in percent and its loss; kept: the tensors of that epoch, where it is the result, but for
    those that training leaves alone. answers: as a checkpoint has them. trained_on: the images that steps have seen,
    and those that the spec knows already. class_weights f32 [classes]: of the loss.
    """

    def __init__(
        self,
        recipe: Recipe,
        spec: ModelSpec,
        net: Net,
        execution: Execution,
        peers: Peers,
        *,
        class_weights: Tensor | None = None,
    ) -> None:
        self.recipe, self.spec, self.net = recipe, spec, net
        self.execution, self.peers = execution, peers
        self.plateau = Plateau()
        self.epochs_done, self.steps_of_epoch, self.finished = 0, 0, False
        self.sums = torch.zeros(3, dtype=torch.float64, device=peers.device)
        self.best = NONE_BEST
        self.kept: dict[str, Tensor] = {}
        self.answers: dict[str, Tensor] = {}
        self.trained_on = known_images(spec) or KnownImages()
        freeze(net, recipe)

        # The net moves to its device, type and memory format before the optimiser takes its parameters.
        self.objective: Objective = make_objective(
            net,
            spec,
            execution.memory_format,
            label_smoothing=recipe.label_smoothing,
            class_weights=class_weights,
            box_weight=recipe.box_weight,
        ).to(peers.device)
        if execution.precision == "fp64":
            self.objective.double()
        net.to(memory_format=execution.memory_format)  # type: ignore[call-overload]
        self.trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.changing = {*self.trained, *(name for name, _ in net.named_buffers())}
        self.optimizer = torch.optim.SGD(
            self._rate_groups(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
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

    def _rate_groups(self) -> list[dict[str, Any]]:
        """The trained parameters by the share of the learning rate that is theirs: `factor`."""
        new, groups = self.spec.source.get(NEW_LAYERS, "").split(), dict[tuple[bool, float], list[nn.Parameter]]()
        for name, parameter in self.trained.items():
            loaded = self.recipe.fine_tune and name.rpartition(".")[0] not in new
            on_features = self.recipe.train_layers == "last" and name.endswith(".weight")
            key = on_features, self.recipe.loaded_rate if loaded else 1.0
            groups.setdefault(key, []).append(parameter)
        return [{"params": groups[key], "factor": key[1], "on_features": key[0]} for key in sorted(groups)]

    def fit_rate_to_features(self, mean_square: float) -> None:
        """Makes the rate of the last layer's weights what it is for features of FEATURE_NORM, whatever theirs is.

        mean_square: the mean of the features' squared norms. A step of gradient descent on features that are s times as
        large would be s^2 times as large: too large at some s, for the nets differ by factors of hundreds.
        """
        for group in self.optimizer.param_groups:
            if group["on_features"]:
                group["factor"] *= FEATURE_NORM**2 / max(mean_square, 1e-12)

    def step(self, parts: Sequence[TrainingBatch], rate: float) -> None:
        """One step of SGD on a batch in pieces: v = momentum v + gradient + decay w; w -= rate v."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
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
        scale = self.scaler.get_scale()  # 1 where it is not enabled
        self.scaler.update()
        self._share_statistics()
        if self.average is not None and self.scaler.get_scale() >= scale:  # a step that was skipped made it smaller
            self.average.update(self.net)

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """Gives all processes the mean of what each has measured of its share of the batch, where batch norms do.

        Without that each would validate a net of its own, and the first one's would be kept.
        """
        norms = [layer for layer in self.net.modules() if isinstance(layer, BatchNorm) and not layer.frozen]
        buffers = [buffer for layer in norms for buffer in layer.buffers()]
        if self.peers.world == 1 or not buffers:
            return
        mean = self.peers.total(torch.cat([buffer.flatten() for buffer in buffers])) / self.peers.world
        for buffer, part in zip(buffers, torch.split(mean, [buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))

    def weights(self) -> dict[str, Tensor]:
        """The weights of inference as of the last step, by the names of the net in training; not copied."""
        return dict(self.net.state_dict()) if self.average is None else self.average.weights

    def keep(self) -> None:
        """Makes the weights of now the run's result."""
        self.kept = {name: t.detach().clone() for name, t in self.weights().items() if name in self.changing}

    def sums_of_epoch(self) -> tuple[float, float, float]:
        """Loss, wrong answers and images of the epoch so far, over all processes, which all call it."""
        loss, wrong, images = self.peers.total(self.sums).tolist()
        return loss, wrong, images

    def checkpoint(self, *, images: int, listing: str, held_out: tuple[str, ...] = ()) -> Checkpoint:
        """A checkpoint to go on from, its tensors on the host. All processes call it."""
        own, result = self.weights(), {**self.weights(), **self.kept}
        weights, auxiliary = split_weights({name: _on_host(t.float()) for name, t in result.items()})
        momentum = {name: self.optimizer.state[p].get("momentum_buffer") for name, p in self.trained.items()}
        unfolded = weights if has_norms(self.net) else {}

        # The file's weights are FP32 and the result so far; where the net's own differ, they are kept beside them.
        exact = self.execution.precision == "fp64"
        others = self.average is not None or exact or bool(self.kept)
        averages = self.average is not None and (exact or bool(self.kept))

        return Checkpoint(
            spec=with_trained_on(self.spec, self.peers.united(self.trained_on)),
            weights=fold_all(weights, googlenet_tv.EPSILON) if unfolded else weights,
            auxiliary=auxiliary,
            unfolded=unfolded,
            momentum={name: _on_host(t) for name, t in momentum.items() if t is not None},
            epochs_done=self.epochs_done,
            recipe=self.recipe.to_json(),
            steps_of_epoch=self.steps_of_epoch,
            sums=self.sums_of_epoch(),
            iterate=self._changing_on_host(self.net.state_dict()) if others else {},
            average=self._changing_on_host(own) if averages else {},
            averaged=None if self.average is None else self.average.steps,
            plateau=(self.plateau.drops, self.plateau.best_percent, self.plateau.since_best),
            best=self.best,
            answers=self.answers,
            scaler=dict(self.scaler.state_dict()),
            images=images,
            listing=listing,
            held_out=held_out,
            finished=self.finished,
        )

    def _changing_on_host(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: _on_host(t) for name, t in tensors.items() if name in self.changing}

    def restore(self, previous: Checkpoint) -> None:
        """Continues from a checkpoint of the same recipe. Raises CheckpointError where it does not fit."""
        self._check_fit(previous)
        inferred: dict[str, Any] = {**(previous.unfolded or previous.weights), **previous.auxiliary}
        self.net.load_state_dict({**inferred, **previous.iterate})
        if self.average is not None:
            for name, tensor in {**inferred, **previous.average}.items():
                self.average.weights[name].copy_(tensor)
            steps = previous.epochs_done * (previous.images // self.recipe.batch) + previous.steps_of_epoch
            self.average.steps = (
                steps if previous.averaged is None else previous.averaged
            )  # older files do not say how many are in it

        for name, buffer in previous.momentum.items():
            parameter = self.trained[name]
            self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
        if previous.scaler and self.scaler.is_enabled():  # either run may be of another precision
            self.scaler.load_state_dict(previous.scaler)

        self.plateau, self.best = Plateau(*previous.plateau), previous.best
        if self.best[0] and self.recipe.keep == "best":
            own = self.net.state_dict()
            self.kept = {name: inferred[name].to(own[name]) for name in self.changing}
        self.answers = previous.answers
        self.epochs_done, self.steps_of_epoch = previous.epochs_done, previous.steps_of_epoch
        self.finished = previous.finished
        if self.peers.rank == 0:  # the others start from zero: the sums are added up over all
            self.sums.copy_(torch.tensor(previous.sums, dtype=torch.float64))

    def _check_fit(self, previous: Checkpoint) -> None:
        """Raises CheckpointError for a tensor that the net, or the part of it that is trained, does not have so."""
        shapes = {name: t.shape for name, t in self.net.state_dict().items()}
        trained = {name: t.shape for name, t in self.trained.items()}
        every = {**(previous.unfolded or previous.weights), **previous.auxiliary}

        for what, tensors, known, needed in (
            ("weights", every, shapes, shapes.keys()),
            ("iterate", previous.iterate, shapes, self.changing),
            ("average", previous.average, shapes, self.changing),
            ("momentum", previous.momentum, trained, set[str]()),
        ):
            odd = [name for name, t in tensors.items() if known.get(name) != t.shape]
            lacking = sorted(needed - tensors.keys()) if tensors else []
            for name in (*odd, *lacking):
                got = tuple(tensors[name].shape) if name in tensors else "missing"
                expected = tuple(known[name]) if name in known else "no such tensor"
                raise CheckpointError(f"its {what} has {name} {got}, expected {expected}")


def freeze(net: Net, recipe: Recipe) -> None:
    """Leaves alone what a recipe does not train, with its statistics. Raises RecipeError for too many."""
    frozen: tuple[str, ...] = ()
    if recipe.train_layers == "fully-connected":
        frozen = tuple(name for name in net.layers if name not in FULLY_CONNECTED)
    elif recipe.train_layers == "last":
        frozen = net.layers[:-1]
    elif recipe.train_layers != "all":
        count = int(recipe.train_layers.removeprefix("after-"))
        if count >= len(net.layers):
            raise RecipeError(
                f"--freeze {count}: {recipe.name} has {len(net.layers)} layers with weights, expected fewer than these"
            )
        frozen = net.layers[:count]

    for name in frozen:
        net.get_submodule(name).requires_grad_(False)
    for path, module in net.named_modules():
        if isinstance(module, BatchNorm):
            module.frozen = (recipe.fine_tune and recipe.norms == "frozen") or path.startswith(
                tuple(f"{name}." for name in frozen)
            )


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()

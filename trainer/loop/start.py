"""The spec and the net that a run starts from: random weights, layers of a trained net, or all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from infer.data.dataset import Dataset
from infer.spec import ModelSpec, Task

from ..checkpoint import Checkpoint, CheckpointError, split_weights
from ..data.colours import Statistics, measure
from ..data.multibox import MultiBoxTargets
from ..nets import googlenet_tv
from ..nets.batch_norm import has_norms, unfold_all
from ..nets.googlenet import CLASSIFIER
from ..nets.vgg import FROM_A, FULLY_CONNECTED
from ..nets.zoo import Net, build_net
from ..processes import say
from ..recipe import Recipe, RecipeError, Start, weights_by_class
from .fine_tuning import NEW_LAYERS, fine_tuned_spec, row_of_class

START_BOXES = 1e-3
"""Standard deviation of the weights that a MultiBox net's last layer begins with."""
S_TOLERANCE = 1 / 8
"""How far, as a share, a box net's S may lie outside of the scales that its classifier was trained at."""


def start_weights(net: Net, start: Start, *, sigma: float = 0.01) -> None:
    """Fills the net with random weights of mean zero, from torch's random numbers, and biases of zero.

    he: normal, sigma sqrt(2 / fan in) (arXiv 1502.01852, equation 10). glorot: uniform up to
    sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010, equation 16; VGG section 3.1's later advice).
    normal: `sigma` for every layer (VGG section 3.1, whose variance of 10^-2 is not AlexNet's 0.01^2).
    """
    for layer in net.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue

        if start == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif start == "glorot":
            nn.init.xavier_uniform_(layer.weight)
        else:
            nn.init.normal_(layer.weight, 0.0, sigma)

        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def copy_layers(net: Net, source: Checkpoint, task: Task) -> None:
    """Copies layers of a trained net into `net`, which learns `task`.

    Nets with the same layers: all of them; but a net for boxes takes all but the last from a classifier (VGG
    appendix A), as a MultiBox net does. Other nets: the layers that the paper starts deeper nets from (FROM_A).
    Raises CheckpointError where the layers do not fit.
    """
    own = net.state_dict()
    if task == "multibox" and source.spec.task == "classify":
        taken = {name: t for name, t in source.weights.items() if _layer(name) != CLASSIFIER}
    elif split_weights(own)[0].keys() != source.weights.keys():
        taken = {name: t for name, t in source.weights.items() if _layer(name) in FROM_A}
    elif task != source.spec.task:
        taken = {name: t for name, t in source.weights.items() if _layer(name) != FULLY_CONNECTED[-1]}
    else:
        taken = source.weights

    _give(net, taken, source)


def copy_for_fine_tuning(net: Net, source: Checkpoint, classes: Sequence[str], recipe: Recipe) -> list[str]:
    """Copies all layers of a trained net into one for `classes`; returns the names of those that begin anew.

    The last layer is taken over where the classes are the same, in whatever order. Raises CheckpointError where the
    layers do not fit, or the recipe needs what the weights do not have.
    """
    weights: Mapping[str, Tensor] = source.weights
    if has_norms(net):
        if not source.unfolded and recipe.norms == "updated":
            raise CheckpointError(
                "--init: norms=updated needs the statistics of the batch norms, which are folded in here: "
                "import the weights anew with python -m export.from_torchvision"
            )
        weights = source.unfolded or unfold_all(weights, googlenet_tv.EPSILON, but=CLASSIFIER)

    last, rows = net.layers[-1], row_of_class(source.spec, classes)
    taken = {name: t for name, t in weights.items() if _layer(name) != last}
    if rows is not None:
        taken |= {name: t[rows] for name, t in weights.items() if _layer(name) == last}
    _give(net, taken, source)
    return [last] if rows is None else []


def check_scale(recipe: Recipe, source: ModelSpec) -> None:
    """Raises CheckpointError where a box net learns at another S than its classifier did (VGG appendix A: the same)."""
    (low, high), (first, last) = source.train_range_px, recipe.phases[-1].short_px
    if recipe.task not in ("box-scr", "box-pcr") or source.task != "classify":
        return
    if first < low * (1 - S_TOLERANCE) or last > high * (1 + S_TOLERANCE):
        theirs, ours = (f"{a}" if a == b else f"{a} to {b}" for a, b in ((low, high), (first, last)))
        raise CheckpointError(
            f"--init: {source.name} was trained at S = {theirs}, {recipe.name} learns boxes at S = {ours}: expected a "
            "classifier of the same S (VGG appendix A), or another recipe or --set phases"
        )


def _give(net: Net, taken: Mapping[str, Tensor], source: Checkpoint) -> None:
    """Loads tensors into a net. Raises CheckpointError for one that does not fit, with what may be meant."""
    own = net.state_dict()
    unfit = [name for name, t in taken.items() if name not in own or own[name].shape != t.shape]
    if unfit or not taken:
        last = {f"{net.layers[-1]}.{part}" for part in ("weight", "bias")}
        hint = ": its classes are others; a -finetune recipe makes the last layer anew" if set(unfit) == last else ""
        raise CheckpointError(
            f"--init: {source.spec.name} (net {source.spec.net}) does not fit: {', '.join(unfit) or 'no layer'}{hint}"
        )
    broken = next((name for name, t in taken.items() if not t.isfinite().all()), None)
    if broken is not None:
        raise CheckpointError(
            f"--init: {source.spec.name}: {broken} has values that are no numbers, expected other weights"
        )
    net.load_state_dict(taken, strict=False)


def _layer(name: str) -> str:
    """`conv1_1` from `conv1_1.weight`."""
    return name.split(".")[0]


def make_spec(recipe: Recipe, dataset: Dataset, statistics: Statistics | None) -> ModelSpec:
    """The spec of a new net, with the colours of its training set."""
    colors = statistics or measure(dataset)
    spec = recipe.spec(dataset.classes, dataset.class_names, colors.mean_rgb)
    source = {**spec.source, "colors": colors.to_json()}
    if is_text_order_of_numbers(dataset.classes):
        source["class_order"] = "numbers in the order of their text: 0, 1, 10, 11, 2"
        say(f"{dataset.root}: classes are numbers, and the net has them in the order of their text (0, 1, 10 ...)")
    return dataclasses.replace(spec, source=source)


def is_text_order_of_numbers(classes: Sequence[str]) -> bool:
    """True for classes that are called 0, 1, 10, 11, 2 ... in this order, which is that of no number."""
    numbers = [int(name) for name in classes if name.isdecimal()]
    return len(numbers) == len(classes) and numbers != sorted(numbers)


def make_net(recipe: Recipe, spec: ModelSpec) -> Net:
    """The net of a run as it is trained, with random weights that are to be replaced, or drawn by `start_weights`."""
    net = build_net(spec, auxiliary_heads=not recipe.fine_tune, batch_norms=spec.net == "googlenet-tv")
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def start_boxes(net: Net, targets: MultiBoxTargets) -> None:
    """Makes a MultiBox net answer with its priors, and with the share of them that objects are matched to.

    So each prior's box begins where it is to learn; the weights of the last layer begin small (START_BOXES).
    """
    last = net.classifier
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    share = min(0.5, max(1e-4, targets.objects_per_image / len(targets.priors)))
    begin = np.concatenate([targets.priors, np.full((len(targets.priors), 1), np.log(share / (1 - share)))], 1)
    with torch.no_grad():
        last.weight.normal_(0.0, START_BOXES)
        last.bias.copy_(torch.from_numpy(begin.ravel()))


def make_initial_net(
    recipe: Recipe, spec: ModelSpec, source: Checkpoint | None, targets: MultiBoxTargets | None = None
) -> Net:
    """The net as its first step finds it. Random numbers fill a tensor in the order of its memory: channels last.

    targets: of a MultiBox net.
    """
    torch.manual_seed(recipe.seed)
    net = make_net(recipe, spec)
    start_weights(net, recipe.start, sigma=recipe.start_sigma)
    if targets is not None:
        start_boxes(net, targets)
    if source is not None:
        check_scale(recipe, source.spec)
        copy_layers(net, source, spec.task)
    return net


def start_fine_tuning(recipe: Recipe, dataset: Dataset, source: Checkpoint | None) -> tuple[ModelSpec, Net]:
    """(spec, net) of a run that goes on from weights: all layers are theirs, but a last one for other classes.

    Raises RecipeError without weights, CheckpointError for those that do not fit.
    """
    if source is None:
        raise RecipeError(f"{recipe.name}: goes on from weights, expected --init CKPT.pt (docs/own-photos.md)")
    torch.manual_seed(recipe.seed)
    spec = fine_tuned_spec(recipe, source.spec, dataset.classes, dataset.class_names)
    net = make_net(recipe, spec)
    start_weights(net, recipe.start, sigma=recipe.start_sigma)
    new = copy_for_fine_tuning(net, source, dataset.classes, recipe)

    # What is made anew, and what stays as it was.
    theirs, ours = len(source.spec.classes), len(dataset.classes)
    anew = (
        f"{new[0]} is made anew for {ours} classes, other than its {theirs}"
        if new
        else "with all layers, for its classes"
    )
    say(f"{recipe.name}: goes on from {source.spec.name}, {anew}")
    if has_norms(net) and recipe.norms == "frozen":
        say(f"{recipe.name}: its batch norms keep the statistics of the weights (--set norms=updated moves them)")
    return dataclasses.replace(spec, source={**spec.source, NEW_LAYERS: " ".join(new)}), net


def class_weights(recipe: Recipe, dataset: Dataset) -> Tensor | None:
    """A weight f32 [classes] for the loss of each class's images; their mean over all images is 1. None: all the same.

    Raises RecipeError for weights of classes that are not there, or of no image.
    """
    if recipe.class_weights == "none":
        return None
    counts = np.bincount([item.label for item in dataset.items], minlength=len(dataset.classes))
    if recipe.class_weights == "balanced":
        weights = np.where(counts > 0, 1 / np.maximum(counts, 1), 0)
    else:
        named = weights_by_class(recipe.class_weights) or {}
        unknown = next((name for name in named if name not in dataset.classes), None)
        if unknown is not None:
            raise RecipeError(
                f"class_weights: no class is called {unknown!r}, expected of {', '.join(dataset.classes[:5])}"
            )
        weights = np.array([named.get(name, 1.0) for name in dataset.classes])

    total = float((weights * counts).sum())
    if not total > 0:
        raise RecipeError("class_weights: no image of a class with a weight above 0")
    return torch.tensor(weights * len(dataset.items) / total, dtype=torch.float32)

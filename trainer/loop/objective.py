"""The objective that a step minimises: a module around the net, from pixels and targets to a loss and wrong answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infer.spec import ModelSpec

from ..nets.zoo import Net

LossAndWrong = tuple[Tensor, Tensor]
"""The mean loss of a batch, and the number of its images with a wrong answer."""


class Objective(nn.Module):
    """A net behind the preprocessing of its spec; called with pixels, shift and target it returns LossAndWrong.

    `errors` names the ways to be wrong that `wrong` counts.
    """

    errors: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, net: Net, spec: ModelSpec, memory_format: torch.memory_format = torch.channels_last) -> None:
        super().__init__()
        self.net, self.memory_format = net, memory_format
        self.register_buffer("mean", torch.tensor(spec.preprocessing.mean_rgb))
        self.register_buffer("std", torch.tensor(spec.preprocessing.std_rgb))

    def pixels(self, pixels: Tensor, shift: Tensor) -> Tensor:
        """The net's input [N, 3, h, w] from u8 [N, h, w, 3] and a colour shift f32 [N, 3] in grey levels."""
        x = ((pixels + shift[:, None, None] - self.mean) / self.std).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=self.memory_format)

    def features(self, pixels: Tensor, shift: Tensor) -> Tensor:
        """The activations before the last layer, f32 [N, width], of crops."""
        return self.net.penultimate(self.pixels(pixels, shift)).mean((2, 3))

    def wrong(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The number of the net's outputs [N, channels] that are wrong in each way: i64 [len(errors)]."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The mean loss of the net's outputs [N, channels]."""
        raise NotImplementedError


class Classification(Objective):
    """Cross-entropy over classes, and 0.3 of each auxiliary head's (GoogLeNet section 5). target: label i64 [N].

    In training each class counts by its `class_weights`, and `label_smoothing` of a target goes to all classes alike
    (Szegedy et al. 2016, section 7). Pixels may be features f32 [N, width] instead, of layers that are frozen. Of five
    classes and fewer there is no top-5 error.
    """

    errors: tuple[str, ...] = ("top1", "top5")
    class_weights: Tensor | None

    def __init__(
        self,
        net: Net,
        spec: ModelSpec,
        memory_format: torch.memory_format = torch.channels_last,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(net, spec, memory_format)
        self.errors = ("top1", "top5") if len(spec.classes) > 5 else ("top1",)
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights)

    def forward(self, pixels: Tensor, shift: Tensor, target: Tensor) -> LossAndWrong:
        if pixels.dim() == 2:
            features = pixels.to(self.mean)[..., None, None]  # of the net's type, which may be double
            scores: tuple[tuple[float, Tensor], ...] = ((1.0, self.net.classify(features).flatten(1)),)
        else:
            scores = self.net.training_scores(self.pixels(pixels, shift))
        loss = torch.zeros((), device=target.device)
        for weight, of_one in scores:
            loss = loss + weight * self._training_loss(of_one, target)
        return loss, (scores[0][1].argmax(1) != target).sum()

    def _training_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        if self.class_weights is None:
            return F.cross_entropy(outputs, target, label_smoothing=self.label_smoothing)
        # by the image: a mean of weights would differ from piece to piece of a batch
        each = F.cross_entropy(outputs, target, label_smoothing=self.label_smoothing, reduction="none")
        return (each * self.class_weights[target]).mean()

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs, target)

    def wrong(self, outputs: Tensor, target: Tensor) -> Tensor:
        best = outputs.topk(min(5, outputs.shape[1]), 1).indices == target[:, None]
        return torch.stack([(~best[:, 0]).sum(), (~best.any(1)).sum()][: len(self.errors)])


class BoxRegression(Objective):
    """Half the squared distance of boxes (VGG appendix A, Caffe's Euclidean loss), each weighted.

    target f32 [N, 6], as trainer.data.box_targets makes it: weight (0 where the crop misses the object), class, box.
    Wrong is a box with a weight whose intersection over union is below 0.5.
    """

    errors = ("iou50",)

    def forward(self, pixels: Tensor, shift: Tensor, target: Tensor) -> LossAndWrong:
        outputs = self.net.training_scores(self.pixels(pixels, shift))[0][1]
        return self.loss(outputs, target), self.wrong(outputs, target)[0]

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        distance = (self._boxes(outputs, target) - target[:, 2:]).square().sum(1)
        return 0.5 * (target[:, 0] * distance).mean()

    def wrong(self, outputs: Tensor, target: Tensor) -> Tensor:
        overlap = iou(self._boxes(outputs, target), target[:, 2:])
        return ((overlap < 0.5) & (target[:, 0] > 0)).sum()[None]

    def _boxes(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The only box of an image (SCR), or the one of its class (PCR): [N, 4] of [N, 4 or 4 * classes]."""
        if outputs.shape[1] == 4:
            return outputs
        own = 4 * target[:, 1, None].long() + torch.arange(4, device=outputs.device)
        return outputs.gather(1, own)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union [N] of boxes [N, 4]: centre x, centre y, width, height; a negative side is none."""
    ends = torch.minimum(one[:, :2] + one[:, 2:] / 2, other[:, :2] + other[:, 2:] / 2)
    begins = torch.maximum(one[:, :2] - one[:, 2:] / 2, other[:, :2] - other[:, 2:] / 2)
    sides = ends - begins  # [N, 2]
    both = sides.clamp(min=0).prod(1)
    return both / (one[:, 2:].clamp(min=0).prod(1) + other[:, 2:].prod(1) - both)


class MultiBox(Objective):
    """Boxes with confidences (Erhan et al., CVPR 2014).

    The loss of an image: over its matched boxes `box_weight` times half the squared distance of the edges, less the
    logarithm of the confidence; over all others less the logarithm of 1 - confidence. A batch has the mean.

    target f32 [N, K, 5], as trainer.data.multibox makes it: edges, and 1 where an object is matched to the box. Wrong
    is the share of an image's objects that none of its boxes covers by an intersection over union of 0.5.
    """

    errors = ("iou50",)

    def __init__(
        self, net: Net, spec: ModelSpec, memory_format: torch.memory_format = torch.channels_last, *, box_weight: float
    ) -> None:
        super().__init__(net, spec, memory_format)
        self.box_weight = box_weight

    def forward(self, pixels: Tensor, shift: Tensor, target: Tensor) -> LossAndWrong:
        outputs = self.net.training_scores(self.pixels(pixels, shift))[0][1]
        return self.loss(outputs, target), self.wrong(outputs, target)[0]

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        found, matched = outputs.to(target.dtype).view_as(target), target[..., 4]
        distance = (found[..., :4] - target[..., :4]).square().sum(2)  # [N, K]
        unsure = F.binary_cross_entropy_with_logits(found[..., 4], matched, reduction="none")
        return (self.box_weight / 2 * matched * distance + unsure).sum(1).mean()

    def wrong(self, outputs: Tensor, target: Tensor) -> Tensor:
        found, objects = outputs.to(target.dtype).view_as(target), target[..., 4]
        begins = torch.maximum(found[:, :, None, :2], target[:, None, :, :2])  # [N, K boxes, K objects, 2]
        ends = torch.minimum(found[:, :, None, 2:4], target[:, None, :, 2:4])
        both = (ends - begins).clamp(min=0).prod(3)
        areas, theirs = ((of[..., 2:4] - of[..., :2]).clamp(min=0).prod(2) for of in (found, target))
        covered = (both >= 0.5 * (areas[:, :, None] + theirs[:, None] - both)).any(1)  # [N, K objects]
        missed = (objects * ~covered).sum(1) / objects.sum(1).clamp(min=1)
        return missed.sum()[None]


def make_objective(
    net: Net,
    spec: ModelSpec,
    memory_format: torch.memory_format,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    box_weight: float = 1.0,
) -> Objective:
    """The objective of the spec's task; smoothing and weights of classes are of classification, `box_weight` is of
    MultiBox."""
    if spec.task == "multibox":
        return MultiBox(net, spec, memory_format, box_weight=box_weight)
    if spec.task != "classify":
        return BoxRegression(net, spec, memory_format)
    return Classification(net, spec, memory_format, label_smoothing=label_smoothing, class_weights=class_weights)

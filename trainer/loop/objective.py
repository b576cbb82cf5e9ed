"""What a step minimises: a module around the net, from bytes and targets to a loss and the number of wrong answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infer.spec import ModelSpec

from ..nets.zoo import Net

Answer = tuple[Tensor, Tensor]
"""The mean loss of a batch, and how many of its images are answered wrongly."""


class Objective(nn.Module):
    """`net` behind the preprocessing of its spec. `errors` names what `wrong` counts."""

    errors: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, net: Net, spec: ModelSpec, memory_format: torch.memory_format = torch.channels_last) -> None:
        super().__init__()
        self.net, self.memory_format = net, memory_format
        self.register_buffer("mean", torch.tensor(spec.preprocessing.mean_rgb))
        self.register_buffer("std", torch.tensor(spec.preprocessing.std_rgb))

    def pixels(self, pixels: Tensor, shift: Tensor) -> Tensor:
        """[N, 3, h, w] in the net's units, of u8 [N, h, w, 3] and a colour shift f32 [N, 3] in grey levels."""
        x = ((pixels + shift[:, None, None] - self.mean) / self.std).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=self.memory_format)

    def forward(self, pixels: Tensor, shift: Tensor, target: Tensor) -> Answer:
        """The loss of a batch of crops, as Objective.pixels takes them."""
        raise NotImplementedError

    def wrong(self, outputs: Tensor, target: Tensor) -> Tensor:
        """i64 [len(errors)]: how many of the net's outputs [N, channels] count as wrong, in each way."""
        raise NotImplementedError


class Classification(Objective):
    """Cross-entropy over classes, and 0.3 of each auxiliary head's (GoogLeNet section 5). target: label i64 [N]."""

    errors = ("top1", "top5")

    def forward(self, pixels: Tensor, shift: Tensor, target: Tensor) -> Answer:
        scores = self.net.training_scores(self.pixels(pixels, shift))
        loss = sum((weight * F.cross_entropy(s, target) for weight, s in scores), torch.zeros((), device=target.device))
        return loss, (scores[0][1].argmax(1) != target).sum()

    def wrong(self, outputs: Tensor, target: Tensor) -> Tensor:
        best = outputs.topk(min(5, outputs.shape[1]), 1).indices == target[:, None]
        return torch.stack([(~best[:, 0]).sum(), (~best.any(1)).sum()])


class BoxRegression(Objective):
    """Half the squared distance of boxes (VGG appendix A, Caffe's Euclidean loss), each weighted.

    target f32 [N, 6], as trainer.box_targets makes it: weight (0 where the crop misses the object), class, box. Wrong
    is a box of a weight whose intersection over union is below 0.5.
    """

    errors = ("iou50",)

    def forward(self, pixels: Tensor, shift: Tensor, target: Tensor) -> Answer:
        outputs = self.net.training_scores(self.pixels(pixels, shift))[0][1]
        distance = (self._boxes(outputs, target) - target[:, 2:]).square().sum(1)
        return 0.5 * (target[:, 0] * distance).mean(), self.wrong(outputs, target)[0]

    def wrong(self, outputs: Tensor, target: Tensor) -> Tensor:
        overlap = iou(self._boxes(outputs, target), target[:, 2:])
        return ((overlap < 0.5) & (target[:, 0] > 0)).sum()[None]

    def _boxes(self, outputs: Tensor, target: Tensor) -> Tensor:
        """[N, 4]: the only box (SCR), or that of the class (PCR)."""
        if outputs.shape[1] == 4:
            return outputs
        own = 4 * target[:, 1, None].long() + torch.arange(4, device=outputs.device)
        return outputs.gather(1, own)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union [N] of boxes [N, 4]: centre x, centre y, width, height; a negative side is none."""
    sides = torch.minimum(one[:, :2] + one[:, 2:] / 2, other[:, :2] + other[:, 2:] / 2) - torch.maximum(
        one[:, :2] - one[:, 2:] / 2, other[:, :2] - other[:, 2:] / 2
    )
    both = sides.clamp(min=0).prod(1)
    return both / (one[:, 2:].clamp(min=0).prod(1) + other[:, 2:].prod(1) - both)


def objective_of(net: Net, spec: ModelSpec, memory_format: torch.memory_format) -> Objective:
    """The objective of the spec's task."""
    return (Classification if spec.task == "classify" else BoxRegression)(net, spec, memory_format)

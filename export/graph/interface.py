"""Names, types and shapes of a graph's outputs; those of its inputs are in infer/graph_inputs.py. Needs no library."""

from __future__ import annotations

from collections.abc import Sequence

from infer.graph_inputs import INPUTS, Shape, TypeName
from infer.spec import ModelSpec, Task

ALWAYS = ("posterior", "posterior_positions", "pixel_sums")
"""Outputs of every classifier (for `nchw` the host sums the pixels)."""
ALWAYS_OF_BOXES = ("box_map", "pixel_sums")
"""Outputs of every box net; infer/boxes/finding.py explains `box_map`."""
ALWAYS_OF_MULTIBOX = ("boxes", "pixel_sums")
"""Outputs of every MultiBox net; infer/boxes/multibox.py explains `boxes`."""
ON_REQUEST = ("score_map", "features", "pixels")
"""Outputs that are asked for. `pixels` are the views as the graph sees them, for tests."""
ANSWERS = ("posterior",)
"""The one list of outputs that is not beside the usual ones: for apps, which need nothing else."""
OUTPUTS_HELP = f"more outputs, comma-separated: {', '.join(ON_REQUEST)}; posterior alone: nothing else, for apps"
NOT_OF_BOXES = ("posterior", "posterior_positions", "score_map")
"""Outputs that a box net does not have."""


def outputs_asked_for(asked: Sequence[str], task: Task) -> tuple[str, ...]:
    """The outputs of a graph of which some were asked: ANSWERS alone, or the usual ones and those."""
    if tuple(asked) == ANSWERS:
        return ANSWERS
    always = {"classify": ALWAYS, "multibox": ALWAYS_OF_MULTIBOX}.get(task, ALWAYS_OF_BOXES)
    return tuple(dict.fromkeys((*always, *asked)))


def outputs_in_graph(spec: ModelSpec) -> dict[str, tuple[TypeName, Shape]]:
    """The outputs of a model in the order of its spec. For `nchw` the host, not the graph, looks at pixels."""
    classes = len(spec.classes)
    known: dict[str, tuple[TypeName, Shape]] = {
        "posterior": ("float32", ("views", classes)),
        "posterior_positions": ("float32", ("views", classes)),
        "pixel_sums": ("int32", ("views", 6)),
        "score_map": ("float32", ("views", classes, "map_height", "map_width")),
        "box_map": ("float32", ("views", spec.channels, "map_height", "map_width")),
        "boxes": ("float32", ("views", spec.boxes, 5)),
        "features": ("float32", ("views", "features")),
        "pixels": ("int32", INPUTS["nchw"]["input"][1]),
    }
    return {name: known[name] for name in spec.outputs if spec.interface != "nchw" or not name.startswith("pixel")}

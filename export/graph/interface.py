"""Names, types and shapes of a graph's inputs and outputs; needs no library.

A size is a number, or the name of a dimension that differs from call to call.
"""

from __future__ import annotations

from typing import Literal

from infer.spec import Interface, ModelSpec

TypeName = Literal["uint8", "int32", "float32"]
Shape = tuple[int | str, ...]

_VIEWS = ("views", "view_height", "view_width")
INPUTS: dict[Interface, dict[str, tuple[TypeName, Shape]]] = {
    "views": {
        "image": ("uint8", ("source_height", "source_width", 3)),
        "col_first": ("int32", ("width",)),
        "col_taps": ("int32", ("col_taps", "width")),
        "row_first": ("int32", ("height",)),
        "row_taps": ("int32", ("row_taps", "height")),
        "rows": ("int32", ("views", "view_height")),
        "cols": ("int32", ("views", "view_width")),
    },
    "images": {"images": ("uint8", (*_VIEWS, 3))},
    "nchw": {"input": ("float32", ("views", 3, *_VIEWS[1:]))},
}
"""Inputs by interface; infer/graph_inputs.py makes those of `views`."""

ALWAYS = ("posterior", "posterior_positions", "pixel_sums")
"""Outputs of every classifier (for `nchw` the host sums the pixels)."""
ALWAYS_OF_BOXES = ("box_map", "pixel_sums")
"""Outputs of every box net; infer/boxes/finding.py explains `box_map`."""
ON_REQUEST = ("score_map", "features", "pixels")
"""Outputs that are asked for. `pixels` are the views as the graph sees them, for tests."""
NOT_OF_BOXES = ("posterior", "posterior_positions", "score_map")
"""Outputs that a box net does not have."""


def outputs_in_graph(spec: ModelSpec) -> dict[str, tuple[TypeName, Shape]]:
    """The outputs of a model in the order of its spec. For `nchw` the host, not the graph, looks at pixels."""
    classes = len(spec.classes)
    known: dict[str, tuple[TypeName, Shape]] = {
        "posterior": ("float32", ("views", classes)),
        "posterior_positions": ("float32", ("views", classes)),
        "pixel_sums": ("int32", ("views", 6)),
        "score_map": ("float32", ("views", classes, "map_height", "map_width")),
        "box_map": ("float32", ("views", spec.channels, "map_height", "map_width")),
        "features": ("float32", ("views", "features")),
        "pixels": ("int32", ("views", 3, *_VIEWS[1:])),
    }
    return {name: known[name] for name in spec.outputs if spec.interface != "nchw" or not name.startswith("pixel")}

"""Names of the outputs of a graph."""

from __future__ import annotations

ALWAYS = ("posterior", "posterior_positions", "pixel_sums")
"""Outputs of every classifier (for `nchw` the host sums the pixels)."""


ALWAYS_OF_BOXES = ("box_map", "pixel_sums")
"""The same of a box net; its `box_map` f32 [V, 4 or 4 * classes, h', w'] is explained in infer/boxes/finding.py."""


ON_REQUEST = ("score_map", "features", "pixels")
"""`pixels` i32 [V, 3, h, w] is the views as the graph sees them, for tests."""


NOT_OF_BOXES = ("posterior", "posterior_positions", "score_map")

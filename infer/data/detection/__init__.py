"""Data sets of detection: many objects in an image, each with a class and a box; ILSVRC's task, PASCAL VOC, COCO.

It knows names, boxes and where the bytes lie; it decodes no image, and nothing of proposals, nets or scores.
"""

from .objects import DetectionData, Object, boxes_in
from .opening import open_detection

__all__ = ["DetectionData", "Object", "boxes_in", "open_detection"]

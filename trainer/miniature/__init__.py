"""The embedded data sets: real handwritten digits in the shape of ILSVRC-2012 and of ILSVRC's detection task.

Nothing here knows about training.
"""

from .digits import RENDERINGS, VAL_DIGITS, make, render
from .files import DEVKIT_ORDER, WNIDS, WORDS

__all__ = ["DEVKIT_ORDER", "RENDERINGS", "VAL_DIGITS", "WNIDS", "WORDS", "make", "render"]

"""Inference with exported VGG and GoogLeNet engines: `Classifier` and `open_engine`."""

from .classify import Classifier, Prediction
from .engine import Engine, EngineError
from .open import open_engine
from .pixels.decode import ImageError

__all__ = ["Classifier", "Engine", "EngineError", "ImageError", "Prediction", "open_engine"]

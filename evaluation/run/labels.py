"""Classes of the data set as classes of the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infer.data.dataset import Dataset
from infer.spec import ModelSpec, placeholder_classes

from ..errors import RunError


def map_labels(dataset: Dataset, spec: ModelSpec) -> NDArray[np.int32]:
    """The model's class index of each class of the data set. Raises RunError unless the model knows them all.

    A model imported without class names is taken at its word: as many classes, in the data set's own sorted order. So
    is a data set whose labels are numbers: they are the model's own, unless it calls its classes as the model does;
    where it has names of its own for them, there must be as many as the model has.
    """
    known = set(spec.classes)
    bare = dataset.classes == tuple(map(str, range(len(dataset.classes))))
    fits = len(dataset.classes) <= len(spec.classes) if bare else len(dataset.classes) == len(spec.classes)
    if dataset.numbered and fits and not known.issuperset(dataset.classes):
        return np.arange(len(dataset.classes), dtype=np.int32)
    if spec.classes == placeholder_classes(len(dataset.classes)):
        return np.arange(len(dataset.classes), dtype=np.int32)
    index = {name: i for i, name in enumerate(spec.classes)}
    missing = [name for name in dataset.classes if name not in index]
    if missing:
        raise RunError(
            f"{spec.name} knows {len(spec.classes)} classes ({spec.classes[0]} ... {spec.classes[-1]}), but the data "
            f"set has {len(missing)} of {len(dataset.classes)} others ({', '.join(missing[:3])} ...): use the data the "
            "model was trained for"
        )
    return np.array([index[name] for name in dataset.classes], np.int32)

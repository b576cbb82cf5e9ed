"""Penultimate activations and linear SVMs on them: the VGG paper's appendix B; knows no training."""

from infer.errors import need

need("evaluation", "sklearn")

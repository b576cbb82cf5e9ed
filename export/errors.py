"""What an export can fail of."""

from __future__ import annotations


class ModelError(ValueError):
    """An input that no engine can be built from as asked; one line."""

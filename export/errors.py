"""What an export can fail of."""

from __future__ import annotations

from infer.errors import Refused


class ModelError(Refused):
    """An input that no engine can be built from as asked; one line."""

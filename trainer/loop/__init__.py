"""The training run: steps, schedule, state on disk, validation, progress; knows no net by name."""

from infer.errors import need

need("trainer", "jinja2", "matplotlib", "tensorboard")

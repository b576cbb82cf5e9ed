"""The training run: steps, schedule, state on disk, validation, progress; knows no net by name."""

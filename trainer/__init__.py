"""Training: the nets of the papers, recipes and checkpoints; knows nothing of export, and evaluates by a command."""

from infer.errors import need

need("trainer", "scipy", "tabulate", "torch", "tqdm")

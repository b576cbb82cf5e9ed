"""The papers' protocols and tables on engines; knows torch only to open a checkpoint."""

from infer.errors import need

need("evaluation", "jinja2", "matplotlib", "pyarrow", "scipy", "tabulate", "tqdm", "yaml")

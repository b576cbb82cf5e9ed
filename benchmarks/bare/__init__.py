"""The stages of gpu_bare.py. Each has NEEDS, the modules that it imports, and

run(folder, rehearse) -> (what was found, by name; what is wrong with it, a line each).
"""

INFER = ("torch", "numpy", "msgspec", "defusedxml", "cv2", "PIL")
"""What `infer` imports, and torch."""
HELPERS = (
    *INFER,
    "onnx",
    "onnxruntime",
    "pytest",
    "pyarrow",
    "scipy",
    "jinja2",
    "matplotlib",
    "tabulate",
    "tqdm",
    "yaml",
)
"""What our other packages and the tests' helpers import."""

"""FP16 or INT8 model.onnx -> model.check.onnx: what the model computes, as a CPU can compute it.

ONNX Runtime keeps half activations in FP32 on a CPU, so what half precision costs does not show there: in the check
graph every half tensor is rounded by casts that stay. Convolutions in INT8 are integers there.
`evaluation`, `infer` and the C++ library open the check graph beside a model in its place. export.to_onnx,
export.from_onnx and export.to_trt write it themselves; this is for models that have none.

python -m export.to_check model.onnx
"""

from __future__ import annotations

from pathlib import Path

from infer.command import Parser, exit_with, run
from infer.errors import one_line
from infer.spec import SpecError

from .errors import naming
from .model.check import write_check


def _work(path: Path) -> int:
    with naming(path, SpecError):
        check = write_check(path)
    print(one_line(f"{check}: {path.name} with its rounding done, {check.stat().st_size / 1e6:.1f} MB"))
    return 0


def main(argv: list[str] | None = None) -> int:
    description = "Write the check graph of an FP16 or INT8 ONNX model."
    parser = Parser(prog="python -m export.to_check", description=description)
    parser.add_argument("model", type=Path, help="an FP16 or INT8 model of ours (.onnx)")
    args = parser.parse_args(argv)
    if args.model.suffix != ".onnx":
        parser.error(f"{args.model}: expected an ONNX model (.onnx)")
    return run(parser, lambda: _work(args.model))


if __name__ == "__main__":
    exit_with(main)

"""Fusion of models: the mean of their posteriors, image by image, from score tables alone.

python -m evaluation.fuse A.parquet B.parquet -o F.parquet
"""

from __future__ import annotations

from pathlib import Path

from infer.command import Parser, exit_with, print_notes, run
from infer.data.own_parquet import check_replaceable
from infer.errors import UsageError, one_line
from infer.processes.owned import own_file

from .scores import table as tables


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m evaluation.fuse", description="Average score tables.")
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.parquet")
    parser.add_argument("-o", "--out", required=True, type=Path)
    args = parser.parse_args(argv)
    return run(parser, lambda: _fuse(args.tables, args.out), own_file(args.out))


def _fuse(paths: list[Path], out: Path) -> int:
    if out.resolve() in [path.resolve() for path in paths]:
        raise UsageError(f"-o {out}: is one of the tables to fuse, which would be lost: expected another file")
    check_replaceable(out, tables.read_head)
    decoders = list(dict.fromkeys(tables.read_head(path).decoder for path in paths))
    if len(decoders) > 1:
        said = f"the tables were decoded by {' and '.join(decoders)}: their pixels may differ by a grey level"
        print_notes([f"{said} (docs/gpu.md), which the fusion says too"])
    tables.write(map(tables.fuse, tables.in_step(paths)), out)
    print(one_line(f"{out}: mean of {len(paths)} tables"))
    return 0


if __name__ == "__main__":
    exit_with(main)

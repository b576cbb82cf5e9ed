"""python -m infer.benchmark --engine model.onnx [--protocol center,dense] [--batch 1,8] [--run OUT] [--json]"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from ..command import (
    Parser,
    add_engine_options,
    count_argument,
    engine_options,
    exit_with,
    print_notes,
    run,
    scales_argument,
)
from ..engine import INT8_IN_FP32, EngineError, is_stand_in
from ..errors import UsageError, one_line
from ..pixels.decode import read
from ..pixels.nvjpeg import DecoderName
from ..processes.cores import usable_cores
from ..processes.owned import own_file
from ..views import PROTOCOLS
from .measure import STEPS, benchmark, synthetic_jpeg
from .pipelined import LEAST_RUNS, LEAST_S, WARM_UP
from .points import POINTS, EvaluatedRun, PointError

HEADINGS = (
    *("engine", "runtime", "protocol", "scales", "batch", "runs", "p50 ms", "p90 ms", "p99 ms"),
    *("compute images/s", "pipelined images/s", "in turn images/s"),
    *(*STEPS, "GFLOP/image", "% of peak"),
)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m infer.benchmark", description="Measure how fast engines are on this machine.")
    parser.add_argument(
        "--engine", required=True, action="append", type=Path, help="model.onnx or model.engine; any number"
    )
    parser.add_argument("--protocol", type=_protocols, default=["center"], metavar="P[,P...]", help="default: center")
    parser.add_argument("--scales", type=scales_argument, metavar="Q[,Q...]", help="default: the model's own")
    parser.add_argument(
        "--batch", type=_batches, default=[1], metavar="N[,N...]", help="images loaded together (default: 1)"
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="default: a synthetic JPEG of 500x375 px")
    parser.add_argument(
        "--runs", type=int, metavar="N", help=f"default: {LEAST_RUNS}, and more until {LEAST_S:.0f} s are over"
    )
    parser.add_argument(
        "--workers", type=count_argument, metavar="N", help="threads that decode, pipelined (default: the cores)"
    )
    parser.add_argument(
        "--decoder",
        choices=get_args(DecoderName),
        default="cpu",
        help="what decodes JPEGs (docs/gpu.md; default: %(default)s)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="OUT",
        help=f"folder of evaluation.ilsvrc that has these engines' errors: writes OUT/{POINTS}, which "
        "evaluation.report draws",
    )
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")

    args = parser.parse_args(argv)
    return run(parser, lambda: _work(args))


def _work(args: argparse.Namespace) -> int:
    if args.runs is not None and args.runs < 1:
        raise UsageError(f"--runs: expected a positive number, got {args.runs}")
    data = synthetic_jpeg() if args.image is None else _whole_file(args.image)
    if args.run is None:
        return _measure(args, data, None)
    evaluated = EvaluatedRun(args.run)
    with own_file(args.run / POINTS):
        return _measure(args, data, evaluated)


def _measure(args: argparse.Namespace, data: bytes, evaluated: EvaluatedRun | None) -> int:
    rows: list[dict[str, Any]] = []
    failed = False
    for path in args.engine:
        measured = benchmark(
            path,
            data,
            protocols=args.protocol,
            scales=args.scales,
            batches=args.batch,
            runs=args.runs,
            options=engine_options(args),
            decoder=args.decoder,
            workers=args.workers or usable_cores(),
            evaluated=evaluated,
            say=_say,
        )
        try:
            for row in measured:
                _say("")
                rows.append(row)
                if args.json:
                    print(json.dumps(row), flush=True)
        except (EngineError, PointError) as error:  # the other engines are measured all the same
            _say("")
            print(one_line(str(error)), file=sys.stderr)
            failed = True
        except UsageError:
            _say("")
            raise

    if rows and not args.json:
        print(table(rows))
    if rows and evaluated is not None:
        print_notes([f"{evaluated.add_points(rows)}: draw it by python -m evaluation.report {args.run}"])
    return 1 if failed else 0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for people, and below them the conditions of the figures."""
    lines = [HEADINGS, *(tuple(map(one_line, _cells(row))) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]

    image = rows[0]["image"]
    text.append(
        f"A run is a batch of images of {image['width_px']}x{image['height_px']} px ({image['bytes'] / 1e3:.0f} kB), "
        f"{WARM_UP} more to warm up; p50 to p99 are from its bytes to its answers, decode to readback means in ms, "
        "readback with what makes inputs ready."
    )
    workers, decoder = rows[0]["workers"], rows[0]["decoder"]
    by = "" if decoder == "cpu" else f" by {decoder}"
    text.append(
        f"images/s: compute, the runtime's own time alone; pipelined, decoding ({workers} "
        f"thread{'s' * (workers > 1)}{by}) and the engine overlapped, as evaluation.ilsvrc has it; in turn, "
        "runs one after the other."
    )
    text += dict.fromkeys(_device_line(row["device"], row["peak"]) for row in rows)
    for engine, arithmetic in dict.fromkeys((row["engine"], row["arithmetic"]) for row in rows):
        if is_stand_in(arithmetic):
            precision = "INT8" if arithmetic == INT8_IN_FP32 else "half precision"
            text.append(one_line(f"{engine}: {arithmetic}: its times are not those of {precision}"))
    return "\n".join(text)


def _device_line(device: str, peak: dict[str, Any] | None) -> str:
    known = "unknown" if peak is None else f"{peak['flops_per_second'] / 1e9:.0f} GFLOP/s ({peak['name']})"
    return f"{device}: peak {known}"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    flops, share = row["flops_per_image"], row["share_of_peak_percent"]
    return (
        *(row["engine"], row["runtime"], row["protocol"], ",".join(map(str, row["scales"]))),
        *(str(row["batch"]), str(row["runs"])),
        *(f"{value:.2f}" for value in row["latency_ms"].values()),
        _rate(row["compute_images_per_second"]),
        _rate(row["pipelined_images_per_second"]),
        _rate(row["images_per_second"]),
        *(f"{value:.2f}" for value in row["split_ms"].values()),
        "-" if flops is None else f"{flops / 1e9:.2f}",
        "-" if share is None else f"{share:.0f}",
    )


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _say(text: str) -> None:
    """Prints progress on a terminal, in place of what was said before."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _whole_file(path: Path) -> bytes:
    """An image's bytes. Raises ImageError for a file that is none."""
    read(path)
    return path.read_bytes()


def _protocols(text: str) -> list[str]:
    for name in text.split(","):
        if name not in PROTOCOLS:
            raise argparse.ArgumentTypeError(f"unknown protocol {name!r}, expected {', '.join(PROTOCOLS)}")
    return text.split(",")


def _batches(text: str) -> list[int]:
    numbers = [int(number) if number.isdecimal() else 0 for number in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected positive numbers like 1,8, got {text!r}")
    return numbers


if __name__ == "__main__":
    exit_with(main)

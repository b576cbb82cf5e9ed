#!/usr/bin/env bash
# Lays out what the TensorRT backend is compiled, linked and tested with where TensorRT is not installed:
#
#   infer/cpp/tests/tensorrt.sh PYTHON FOLDER
#
# FOLDER/include: TensorRT 10.14's own headers (the wheel kernel-lens has them); FOLDER/lean: a real TensorRT library
# (tensorrt-lean, which starts and then misses the driver); FOLDER/double: the double of its runtime.
set -euo pipefail
python=$1 folder=$2 here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder/lean/lib" "$folder/double/lib"
unpack() { # WHEEL PATTERN TARGET
  local work
  work=$(mktemp -d)
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$1"
  "$python" - "$work" "$2" "$3" <<'PYTHON'
import fnmatch, pathlib, sys, zipfile
work, pattern, target = sys.argv[1:]
(wheel,) = pathlib.Path(work).glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    for name in fnmatch.filter(archive.namelist(), pattern):
        pathlib.Path(target, pathlib.PurePath(name).name).write_bytes(archive.read(name))
PYTHON
  rm -r "$work"
}
if [ ! -f "$folder/include/NvInferRuntime.h" ]; then
  mkdir -p "$folder/include"
  unpack kernel-lens==2.0.1 '*/NvInfer*.h' "$folder/include"
fi
if [ ! -f "$folder/lean/lib/libnvinfer.so" ]; then
  unpack tensorrt-lean-cu13-libs==10.16.1.11 '*/libnvinfer_lean.so.10' "$folder/lean/lib"
  ln -sf libnvinfer_lean.so.10 "$folder/lean/lib/libnvinfer.so"
fi
for kind in lean double; do ln -sfn "$(realpath "$folder/include")" "$folder/$kind/include"; done
cuda=${CUDA_HOME:-/usr/local/cuda}/include
"$python" "$here/nvinfer_stubs.py" "$folder/include/NvInferImpl.h" "$folder/nvinfer_stubs.hpp"
"${CXX:-g++}" -std=c++17 -O1 -g -Wall -Wextra -Werror -fPIC -shared -o "$folder/double/lib/libnvinfer.so" \
  "$here/fake_nvinfer.cpp" -I"$folder" -isystem "$folder/include" -isystem "$cuda" -isystem "$ONNXRUNTIME/include" \
  -L"$ONNXRUNTIME/lib" -Wl,-rpath,"$(realpath "$ONNXRUNTIME/lib")" -lonnxruntime -ldl

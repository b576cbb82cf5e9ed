#!/usr/bin/env bash
# Compiles the TensorRT backend, without linking, against TensorRT's public headers of other versions:
#
#   infer/cpp/tests/headers.sh FOLDER     FOLDER/VERSION/NvInferRuntime.h, as include/ of github.com/NVIDIA/TensorRT has it
#
# The headers are not part of this project. Ends with status 1 where a version does not compile, or there is none.
set -euo pipefail
sources=$(cd "$(dirname "$0")/.." && pwd) cuda=${CUDA_HOME:-/usr/local/cuda}/include status=0 found=0
for header in "$1"/*/NvInferRuntime.h; do
  [ -f "$header" ] || continue
  folder=$(dirname "$header") found=1
  if "${CXX:-g++}" -std=c++17 -fsyntax-only -Wall -Wextra -Werror -DVERYDEEP_TENSORRT -I "$sources/include" \
    -isystem "$folder" -isystem "$cuda" "$sources/src/tensorrt_backend.cpp"; then
    echo "$(basename "$folder"): compiles"
  else
    echo "$(basename "$folder"): does not compile"
    status=1
  fi
done
[ "$found" = 1 ] || { echo "$1: no VERSION/NvInferRuntime.h in it, expected include/ of github.com/NVIDIA/TensorRT" >&2; exit 1; }
exit $status

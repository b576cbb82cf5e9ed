#!/usr/bin/env bash
# Checks that the TensorRT backend compiles against other releases' headers, without linking or running anything:
#
#   infer/cpp/tests/headers.sh FOLDER...     folders of NvInferRuntime.h, as github.com/NVIDIA/TensorRT has in include/
#
# Nothing of them is kept here. CUDA_HOME: the folder of CUDA's headers.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cuda=${CUDA_HOME:-/usr/local/cuda}/include
version() { awk -v name="$2" '$2 == "NV_TENSORRT_" name || $2 == "TRT_" name "_ENTERPRISE" { if ($3 ~ /^[0-9]+$/) print $3 }' "$1/NvInferVersion.h"; }
for folder in "$@"; do
  "${CXX:-g++}" -std=c++17 -fsyntax-only -Wall -Wextra -Werror -DVERYDEEP_BUILDING -I"$here/src" -I"$here/include" \
    -isystem "$folder" -isystem "$cuda" "$here/src/tensorrt_backend.cpp"
  echo "$folder: TensorRT $(version "$folder" MAJOR).$(version "$folder" MINOR) compiles"
done

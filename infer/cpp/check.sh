#!/usr/bin/env bash
# Builds and tests infer/cpp from a fresh clone: plain with all warnings as errors, then under AddressSanitizer and
# UndefinedBehaviorSanitizer, then under ThreadSanitizer.
#
#   infer/cpp/check.sh PYTHON     (make cpp)
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1 builds=.cpp-build
packages=(cmake g++ pkg-config nlohmann-json3-dev libjpeg-dev libpng-dev libgtest-dev)
if ! dpkg -s "${packages[@]}" > /dev/null 2>&1; then
  echo "installing ${packages[*]}"
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${packages[@]}" > /dev/null
fi
infer/cpp/onnxruntime.sh "$python" .onnxruntime
mkdir -p "$builds"
"$python" infer/cpp/tests/slim_engine.py "$builds/slim.onnx"
export VERYDEEP_ENGINE=$PWD/$builds/slim.onnx
build() {
  local folder=$builds/$1
  shift
  cmake -S infer/cpp -B "$folder" -DONNXRUNTIME_ROOT="$PWD/.onnxruntime" -DVERYDEEP_TESTS=ON "$@" > "$folder.log" 2>&1 ||
    { cat "$folder.log"; exit 1; }
  cmake --build "$folder" --parallel 2 > "$folder.log" 2>&1 || { cat "$folder.log"; exit 1; }
}
tests() { (cd "$1" && ctest --output-on-failure "${@:2}"); }

build plain -DCMAKE_CXX_FLAGS=-Werror
tests $builds/plain
VERYDEEP_CPP=$PWD/$builds/plain "$python" -m pytest -q \
  tests/infer/cpp/test_cpp.py tests/infer/cpp/test_cpp_boxes.py tests/infer/cpp/test_cpp_detect.py
infer/cpp/tests/installed.sh "$builds/plain" "$builds/installed"

build address -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS="-Werror -fsanitize=address,undefined -fno-sanitize-recover=all"
VERYDEEP_CALLS=500 tests $builds/address
build thread -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS="-Werror -fsanitize=thread"
TSAN_OPTIONS="suppressions=$PWD/infer/cpp/tests/thread.supp halt_on_error=1" tests $builds/thread -R Threads

# TensorRT: compiled with its own headers, linked with a real library, run on the double of its runtime.
ONNXRUNTIME=.onnxruntime infer/cpp/tests/tensorrt.sh "$python" "$builds/tensorrt"
tensorrt=(-DVERYDEEP_TESTS=OFF -DVERYDEEP_TENSORRT=ON)
build lean "${tensorrt[@]}" -DTENSORRT_ROOT="$PWD/$builds/tensorrt/lean" -DCMAKE_CXX_FLAGS=-Werror
build double "${tensorrt[@]}" -DTENSORRT_ROOT="$PWD/$builds/tensorrt/double" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS="-Werror -fsanitize=address,undefined -fno-sanitize-recover=all"
VERYDEEP_CPP_LEAN=$PWD/$builds/lean VERYDEEP_CPP_DOUBLE=$PWD/$builds/double \
  "$python" -m pytest -q tests/infer/cpp/test_cpp_tensorrt.py

# 10^5 calls of a tiny net leak nothing, and half a minute of damaged images and metadata finds nothing.
"$python" infer/cpp/tests/slim_engine.py "$builds/slim.onnx" "$builds/tiny.onnx"
VERYDEEP_ENGINE=$PWD/$builds/tiny.onnx VERYDEEP_CALLS=100000 tests $builds/plain -R CallsLeakNothing
infer/cpp/tests/fuzz.sh "$python" "$builds/fuzz" 10

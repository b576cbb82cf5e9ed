#!/usr/bin/env bash
# Feeds damaged images and metadata to the library, under AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   infer/cpp/tests/fuzz.sh PYTHON FOLDER [SECONDS]     SECONDS for images (30), half as many for each kind of metadata
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 seconds=${3:-30}
folder=$(mkdir -p "$2" && cd "$2" && pwd)
if ! echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, long) { return 0; }' |
  clang++ -x c++ -fsanitize=fuzzer,address,undefined - -o "$folder/empty" 2> /dev/null; then
  echo "installing clang libclang-rt-dev"
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends clang libclang-rt-dev > /dev/null
fi
fuzz() {
  local target=$1
  shift
  clang++ -std=c++17 -O1 -g -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
    -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION -Iinclude -Isrc "tests/fuzz_$target.cpp" "$@" -o "$folder/$target"
  mkdir -p "$folder/found/$target"
  "$folder/$target" -max_total_time="$seconds" -max_len=4096 -timeout=20 -artifact_prefix="$folder/$target-" \
    "$folder/found/$target" "$folder/seeds/$target" > "$folder/$target.log" 2>&1 ||
    { tail -60 "$folder/$target.log"; exit 1; }
  echo "fuzzed $target: $(tail -1 "$folder/$target.log")"
}
"$python" tests/fuzz_seeds.py "$folder/seeds"
fuzz decode -DVERYDEEP_DECODE src/decode.cpp src/files.cpp -ljpeg -lpng
seconds=$(((seconds + 1) / 2))
fuzz spec src/spec.cpp src/views.cpp src/taps.cpp src/feed.cpp src/regions.cpp src/self_test.cpp
fuzz sidecar src/sidecar.cpp src/files.cpp src/spec.cpp src/sha256.cpp

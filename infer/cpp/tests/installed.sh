#!/usr/bin/env bash
# Installs a build and compiles the examples against what was installed, by CMake and by pkg-config.
#
#   installed.sh BUILD FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd) build=$1 folder=$(mkdir -p "$2" && cd "$2" && pwd)
cmake --install "$build" --prefix "$folder/prefix" > /dev/null
cmake -S "$here/examples" -B "$folder/examples" -DCMAKE_PREFIX_PATH="$folder/prefix" -DCMAKE_CXX_FLAGS="-Wall -Wextra -Werror" > /dev/null
cmake --build "$folder/examples" > /dev/null
export PKG_CONFIG_PATH=$folder/prefix/lib/pkgconfig:$folder/prefix/lib64/pkgconfig
cc -Wall -Wextra -Werror "$here/examples/classify.c" $(pkg-config --cflags --libs verydeep) -o "$folder/classify-c"
image=$(mktemp --suffix .ppm)
trap 'rm -f "$image"' EXIT
{ printf 'P6\n96 90\n255\n'; head -c $((3 * 96 * 90)) "$VERYDEEP_ENGINE"; } > "$image"
export LD_LIBRARY_PATH=$folder/prefix/lib:$folder/prefix/lib64:$here/../../.onnxruntime/lib
one=$("$folder/examples/classify" "$VERYDEEP_ENGINE" "$image")
two=$("$folder/classify-c" "$VERYDEEP_ENGINE" "$image")
three=$(python3 "$here/examples/classify.py" "$folder"/prefix/lib*/libverydeep.so "$VERYDEEP_ENGINE" "$image")
[ -n "$one" ] && [ "$one" = "$two" ] && [ "$one" = "$three" ] || { echo "the examples differ: $one | $two | $three" >&2; exit 1; }
echo "installed library: C++, C and Python on the C interface agree: $one"

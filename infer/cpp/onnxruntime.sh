#!/usr/bin/env bash
# Lays out ONNX Runtime for CMake in a folder: the library of the Python wheel, headers of Debian's package.
#
#   infer/cpp/onnxruntime.sh PYTHON FOLDER     then  cmake -DONNXRUNTIME_ROOT=FOLDER …
#
# The wheel has no headers. Debian's libonnxruntime-dev (13 or newer) has: an older header asks a newer library for its
# own version of the interface. On an older Debian the package is taken from the same mirror and only unpacked.
set -euo pipefail
python=$1 folder=$2
mkdir -p "$folder/lib" "$folder/include"
library=$("$python" -c 'import glob, os, onnxruntime as o; print(*glob.glob(os.path.join(os.path.dirname(o.__file__), "capi", "libonnxruntime.so.*")))')
[ -f "$library" ] || { echo "$python has no onnxruntime: pip install onnxruntime" >&2; exit 1; }
ln -sf "$library" "$folder/lib/libonnxruntime.so"
ln -sf "$library" "$folder/lib/libonnxruntime.so.1"
[ -f "$folder/include/onnxruntime_cxx_api.h" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/package"
sources=/etc/apt/sources.list.d/debian.sources
if [ -f $sources ]; then
  mirror=$(sed -n 's/^URIs: *//p' $sources | head -1)
else
  mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list | head -1)
fi
[ -n "$mirror" ] || { echo "no Debian mirror in /etc/apt: give cmake -DONNXRUNTIME_ROOT of a release of ONNX Runtime" >&2; exit 1; }
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$work/sources.list"
options=(-o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists"
  -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -qq)
apt-get "${options[@]}" update
(cd "$work" && apt-get "${options[@]}" download libonnxruntime-dev && dpkg -x libonnxruntime-dev*.deb package)
cp "$work"/package/usr/include/onnxruntime/onnxruntime_*.h "$folder/include/"

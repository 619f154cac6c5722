#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Builds the trainer of pictures, installs a set of pictures if none is named, and trains:
#   examples/images/run.sh                   # ten minutes on the emoji of fonts-noto-color-emoji
#   examples/images/run.sh --data FOLDER     # on pictures of one's own
# All options: examples/images/run.sh --help
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup.sh
source "$here/../../scripts/setup.sh"

build=$root/build/enwik8 # that of the trainer of text
packages=("${build_packages[@]}" "${trainer_packages[@]}")
[[ " $* " == *' --data'* ]] || packages+=(fonts-noto-color-emoji)

# Several runs may start at once; one builds and the others wait.
mkdir -p "$build"
exec 9>"$build/lock"
flock 9
[[ -x $build/examples/images/images ]] || say "building the trainer, which takes a minute or two ..."
configure "$build" -DCMAKE_BUILD_TYPE=Release -DREFORMER_BUILD_EXAMPLES=ON \
  -DREFORMER_BUILD_TESTS=OFF -DREFORMER_BUILD_BENCHMARKS=OFF -- "${packages[@]}"
if ! cmake --build "$build" --parallel "$jobs" \
  --target images images_generate images_export &>"$build/build.log"; then
  cat "$build/build.log" >&2
  die "building the trainer failed"
fi
exec 9>&-

# As in examples/enwik8/run.sh: threads that wait sleep early, unless the user has chosen.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000} KMP_BLOCKTIME=${KMP_BLOCKTIME:-1}
exec "$build/examples/images/images" "$@"

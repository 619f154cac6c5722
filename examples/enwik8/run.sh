#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the trainer, with the Debian packages this takes, and runs it in the current folder. All
# arguments are the trainer's, see --help; standard output is the trainer's alone.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup.sh"

build=$root/build/enwik8
trainer=$build/examples/enwik8/enwik8
mkdir -p "$build"

# Several runs may start at once; one builds and the others wait.
exec 9>"$build/lock"
flock 9
[[ -x $trainer ]] || say "building the trainer, which takes a minute or two ..."
configure "$build" -DCMAKE_BUILD_TYPE=Release -DREFORMER_BUILD_EXAMPLES=ON \
  -DREFORMER_BUILD_TESTS=OFF -DREFORMER_BUILD_BENCHMARKS=OFF -- "${build_packages[@]}" "${trainer_packages[@]}"
if ! cmake --build "$build" --target enwik8 --parallel "$jobs" &>"$build/build.log"; then
  cat "$build/build.log" >&2
  die "building the trainer failed"
fi
exec 9>&-

# Threads that wait spin for 16 ms and more by default. Beside any other busy program that costs the
# trainer most of its speed: let them sleep early, unless the user has chosen.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000} KMP_BLOCKTIME=${KMP_BLOCKTIME:-1}

exec "$trainer" "$@"

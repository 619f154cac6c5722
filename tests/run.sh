#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds and runs all tests, and installs the Debian packages this takes if they are missing.
# Arguments go to ctest, for instance: tests/run.sh -L attention
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/setup.sh"

build=$root/build/tests
configure "$build" -DCMAKE_BUILD_TYPE=Release -DREFORMER_BUILD_TESTS=ON \
  -DREFORMER_BUILD_EXAMPLES=ON -DREFORMER_BUILD_BENCHMARKS=OFF -DREFORMER_BUILD_MPI=ON -- \
  "${build_packages[@]}" "${test_packages[@]}" "${trainer_packages[@]}" "${mpi_packages[@]}"
cmake --build "$build" --parallel "$jobs"
exec ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$jobs" "$@"

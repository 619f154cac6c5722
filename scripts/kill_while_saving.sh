#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Kills the trainer (SIGKILL) at random moments while it saves a checkpoint after every step, and
# resumes it, over and over. Every resume must work, and every run must end with the bits of one that
# was never killed: the test Program.KilledAtAnyMomentItEndsWithTheSameBits, which kills five times
# when it runs with the others.
#
#   scripts/kill_while_saving.sh [KILLS [SEED]]     1000 kills by default, which takes some minutes
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

export REFORMER_KILLS=${1:-1000} REFORMER_KILL_SEED=${2:-1}
build=$root/build/tests
configure "$build" -DCMAKE_BUILD_TYPE=Release -DREFORMER_BUILD_TESTS=ON \
  -DREFORMER_BUILD_EXAMPLES=ON -DREFORMER_BUILD_BENCHMARKS=OFF -- \
  "${build_packages[@]}" "${test_packages[@]}" "${trainer_packages[@]}"
cmake --build "$build" --parallel "$jobs" --target enwik8 enwik8_generate reformer_test_examples
exec "$build/tests/reformer_test_examples" \
  --gtest_filter=Program.KilledAtAnyMomentItEndsWithTheSameBits

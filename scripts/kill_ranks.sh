#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Kills one of the ranks that train together (SIGKILL) at random moments, while they save a checkpoint
# after every step, and goes on with another number of ranks, over and over. The others must have
# ended within 10 seconds, with a line that says what has happened, and every run must end with the
# bits of one that was never killed: the test
# RankedProgram.AKilledRankEndsAllAndTheLastCheckpointGoesOn, which kills twice when it runs with the
# others.
#
#   scripts/kill_ranks.sh [KILLS [SEED]]     200 kills by default, which takes some minutes
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

export REFORMER_KILLS=${1:-200} REFORMER_KILL_SEED=${2:-1}
build=$root/build/tests
configure "$build" -DCMAKE_BUILD_TYPE=Release -DREFORMER_BUILD_TESTS=ON \
  -DREFORMER_BUILD_EXAMPLES=ON -DREFORMER_BUILD_BENCHMARKS=OFF -DREFORMER_BUILD_MPI=ON -- \
  "${build_packages[@]}" "${test_packages[@]}" "${trainer_packages[@]}" "${mpi_packages[@]}"
cmake --build "$build" --parallel "$jobs" --target enwik8 enwik8_generate reformer_test_examples
exec "$build/tests/reformer_test_examples" \
  --gtest_filter=RankedProgram.AKilledRankEndsAllAndTheLastCheckpointGoesOn

// SPDX-License-Identifier: MIT
/// @file
/// Whether something like `mpirun` has started this process.
#pragma once

#include <cstdlib>

namespace training {

/// Whether Open MPI, MPICH or one of its relatives, or Slurm with either has started this process
/// as one of several, by what they put into the environment. MPI itself would say so only after it
/// has been initialised, which takes its time and which a process that is alone has no use for.
inline bool is_one_of_several() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    if (const char* text = std::getenv(name)) {
      return std::atoi(text) > 1;
    }
  }
  return std::getenv("PMIX_RANK") != nullptr;  // of how many, only MPI knows
}

}  // namespace training

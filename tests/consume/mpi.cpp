// SPDX-License-Identifier: MIT
// Ranks that are processes, from outside: how many there are. Only built; to run it takes mpirun.
#include <cstdio>

#include <reformer/mpi/communicator.hpp>

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  {
    const reformer::MpiCommunicator communicator(MPI_COMM_WORLD);
    std::printf("%d of %d\n", communicator.rank(), communicator.size());
  }
  MPI_Finalize();
}

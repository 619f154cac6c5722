# SPDX-License-Identifier: MIT
# Builds and runs main.cpp with link-time optimisation, for this processor. See ../CMakeLists.txt.
cmake_minimum_required(VERSION 3.21)

set(include_eigen "")
foreach(dir IN LISTS eigen_dirs)
  list(APPEND include_eigen -isystem ${dir})
endforeach()
file(MAKE_DIRECTORY ${work_dir})
execute_process(
  COMMAND ${compiler} -std=c++20 -O3 -flto -march=native -fopenmp -I${reformer_source_dir}/include
          ${include_eigen} ${CMAKE_CURRENT_LIST_DIR}/main.cpp -o ${work_dir}/reversal
  COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${work_dir}/reversal COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)

# SPDX-License-Identifier: MIT
# Builds and runs main.cpp in one `way`: subdirectory, package or compiler. See ../CMakeLists.txt.
cmake_minimum_required(VERSION 3.21)

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${work_dir})
file(MAKE_DIRECTORY ${work_dir})

if(way STREQUAL "compiler")
  # No CMake, no OpenMP: a plain compiler call, which must not even warn.
  set(include_eigen "")
  foreach(dir IN LISTS eigen_dirs)
    list(APPEND include_eigen -isystem ${dir})
  endforeach()
  run(${compiler} -std=c++20 -Wall -Wextra -Werror -DEXPECTED_VERSION="${reformer_version}"
      -I${reformer_source_dir}/include ${include_eigen} ${CMAKE_CURRENT_LIST_DIR}/main.cpp
      -o ${work_dir}/consume)
  run(${work_dir}/consume)
  return()
endif()

set(prefix "")
if(way STREQUAL "package")
  # Installed in one place and used from another: the package must not hold absolute paths.
  run(${CMAKE_COMMAND} --install ${reformer_binary_dir} --prefix ${work_dir}/first)
  file(RENAME ${work_dir}/first ${work_dir}/prefix)
  set(prefix -D CMAKE_PREFIX_PATH=${work_dir}/prefix)
endif()
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${work_dir}/build -G ${generator}
    -D CMAKE_MAKE_PROGRAM=${make_program} -D CMAKE_CXX_COMPILER=${compiler} ${prefix}
    -D way=${way} -D reformer_source_dir=${reformer_source_dir}
    -D reformer_version=${reformer_version})
run(${CMAKE_COMMAND} --build ${work_dir}/build)
run(${work_dir}/build/consume)
if(EXISTS ${work_dir}/build/consume_io)
  run(${work_dir}/build/consume_io)
endif()

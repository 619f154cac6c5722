# SPDX-License-Identifier: MIT
# Uses the library from outside in one `way`; see ../CMakeLists.txt. By subdirectory, package, eigen5 and
# compiler, main.cpp is built and run; O0, O2 and O3 compile warnings.cpp; fast_math must not compile.
cmake_minimum_required(VERSION 3.21)

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${work_dir})
file(MAKE_DIRECTORY ${work_dir})

# The ways without CMake are plain compiler calls; for them the headers are none of the system.
set(compile ${compiler} -std=c++20 -I${reformer_source_dir}/include)
foreach(dir IN LISTS eigen_dirs)
  list(APPEND compile -isystem ${dir})
endforeach()

if(way STREQUAL "compiler")
  # No OpenMP, and no warnings.
  run(${compile} -Wall -Wextra -Werror -DEXPECTED_VERSION="${reformer_version}" -DEXPECTED_OPENMP=0
      ${CMAKE_CURRENT_LIST_DIR}/main.cpp -o ${work_dir}/consume)
  run(${work_dir}/consume)
  return()
endif()

if(way MATCHES "^O[0-9]$")
  # What compilers warn of depends on what they inline.
  run(${compile} -${way} -Wall -Wextra -Werror -fopenmp ${CMAKE_CURRENT_LIST_DIR}/warnings.cpp
      -o ${work_dir}/consume)
  run(${work_dir}/consume)
  return()
endif()

if(way STREQUAL "fast_math")
  file(WRITE ${work_dir}/main.cpp "#include <reformer/reformer.hpp>\n")
  set(sentence "reformer: -ffast-math removes the detection of NaN and overflow, compile without it")
  run(${compile} -O2 -E ${work_dir}/main.cpp -o ${work_dir}/main.ii)
  foreach(flag -ffast-math -Ofast -ffinite-math-only)
    execute_process(COMMAND ${compile} ${flag} -E ${work_dir}/main.cpp -o ${work_dir}/main.ii
                    RESULT_VARIABLE result ERROR_VARIABLE errors)
    if(result EQUAL 0 OR NOT errors MATCHES "${sentence}")
      message(FATAL_ERROR "${flag} is not refused with '${sentence}', but: ${result} ${errors}")
    endif()
  endforeach()
  return()
endif()

set(options -G ${generator} -D CMAKE_MAKE_PROGRAM=${make_program} -D CMAKE_CXX_COMPILER=${compiler})
if(way STREQUAL "eigen5")
  # Eigen 5 as far as CMake can tell: its version file says no to whoever asks for 3.4.
  include(CMakePackageConfigHelpers)
  write_basic_package_version_file(${work_dir}/eigen/Eigen3ConfigVersion.cmake VERSION 5.0.1
                                   COMPATIBILITY SameMajorVersion ARCH_INDEPENDENT)
  file(WRITE ${work_dir}/eigen/Eigen3Config.cmake
       "add_library(Eigen3::Eigen INTERFACE IMPORTED)
        target_include_directories(Eigen3::Eigen INTERFACE \"${eigen_dirs}\")\n")
  list(APPEND options -D Eigen3_DIR=${work_dir}/eigen)
endif()

set(prefix "")
if(NOT way STREQUAL "subdirectory")
  # A user who wants the headers has none of the other packages. Installed in one place and used from
  # another: the package must not hold absolute paths.
  set(without "")
  foreach(package GTest benchmark CLI11 fmt ZLIB OpenMP)
    list(APPEND without -D CMAKE_DISABLE_FIND_PACKAGE_${package}=ON)
  endforeach()
  run(${CMAKE_COMMAND} -S ${reformer_source_dir} -B ${work_dir}/library ${options} ${without})
  run(${CMAKE_COMMAND} --build ${work_dir}/library)
  run(${CMAKE_COMMAND} --install ${work_dir}/library --prefix ${work_dir}/first)
  file(RENAME ${work_dir}/first ${work_dir}/prefix)
  set(prefix -D CMAKE_PREFIX_PATH=${work_dir}/prefix)
endif()
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${work_dir}/build ${options} ${prefix}
    -D way=${way} -D reformer_source_dir=${reformer_source_dir}
    -D reformer_version=${reformer_version}
    # A user who stops at the first warning, whatever the library does.
    "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wconversion -Wshadow -Werror")
if(way STREQUAL "eigen5")
  return() # the headers are those of another version
endif()
run(${CMAKE_COMMAND} --build ${work_dir}/build)
foreach(program consume consume_threads consume_io)
  if(program STREQUAL "consume" OR EXISTS ${work_dir}/build/${program})
    run(${work_dir}/build/${program})
  endif()
endforeach()

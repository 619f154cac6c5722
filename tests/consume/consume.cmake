# SPDX-License-Identifier: MIT
# Uses the library from outside in one `way`; see ../CMakeLists.txt. By subdirectory, package, eigen5 and
# compiler, main.cpp is built and run, with the instances in a source of their own too, or missed without
# it; by compiled, train.cpp of the examples, against the installed
# reformer::compiled; O0, O2 and O3 compile warnings.cpp; fast_math must not compile; tags must not link.
cmake_minimum_required(VERSION 3.21)

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${work_dir})
file(MAKE_DIRECTORY ${work_dir})

# Nothing but time is changed by it: see cmake/PrivateOptions.cmake.
set(memory "")
if(compiler_id STREQUAL "GNU")
  set(memory --param=ggc-min-heapsize=524288)
endif()

# The ways without CMake are plain compiler calls; for them the headers are none of the system.
set(compile ${compiler} -std=c++20 ${memory} -I${reformer_source_dir}/include)
foreach(dir IN LISTS eigen_dirs)
  list(APPEND compile -isystem ${dir})
endforeach()

if(way STREQUAL "compiler")
  # No OpenMP, and no warnings.
  run(${compile} -Wall -Wextra -Werror -DEXPECTED_VERSION="${reformer_version}" -DEXPECTED_OPENMP=0
      ${CMAKE_CURRENT_LIST_DIR}/main.cpp -o ${work_dir}/consume)
  run(${work_dir}/consume)
  # What is said to be in another source must not be compiled here, or nothing is saved.
  function(check_is_apart source macro)
    run(${compile} -O2 -D${macro} -c ${source} -o ${work_dir}/alone.o)
    execute_process(COMMAND ${compiler} ${work_dir}/alone.o -o ${work_dir}/without_instances
                    RESULT_VARIABLE result ERROR_VARIABLE errors)
    foreach(instance IN LISTS ARGN)
      if(result EQUAL 0 OR NOT errors MATCHES "undefined reference to [^\n]*${instance}")
        message(FATAL_ERROR "without the instances it links, or has ${instance}: ${errors}")
      endif()
    endforeach()
  endfunction()
  check_is_apart(${reformer_source_dir}/examples/train.cpp REFORMER_EXTERN_INSTANCES
                 "Model<float>::Model" "Model<float>::loss_and_gradients" "Adam<float>::Adam")
  if(with_io)
    check_is_apart(${CMAKE_CURRENT_LIST_DIR}/io.cpp REFORMER_EXTERN_IO_INSTANCES
                   "write_safetensors<float>" "SafetensorsFile::read<float>")
  endif()
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

if(way STREQUAL "tags")
  # One object has a function of the library, another calls it, compiled for other processors or
  # without OpenMP.
  file(WRITE ${work_dir}/there.cpp "#include <reformer/foundation/index.hpp>
namespace reformer::inline REFORMER_ABI { Index answer(Index x) { return x; } }\n")
  file(WRITE ${work_dir}/here.cpp "#include <reformer/foundation/index.hpp>
namespace reformer::inline REFORMER_ABI { Index answer(Index x); }
int main() { return static_cast<int>(reformer::answer(0)); }\n")
  set(here_flags -march=x86-64)
  run(${compile} ${here_flags} -c ${work_dir}/here.cpp -o ${work_dir}/here.o)
  foreach(flags "-march=x86-64" "-march=haswell" "-march=x86-64 -fopenmp")
    separate_arguments(there_flags UNIX_COMMAND "${flags}")
    run(${compile} ${there_flags} -c ${work_dir}/there.cpp -o ${work_dir}/there.o)
    execute_process(COMMAND ${compiler} ${work_dir}/here.o ${work_dir}/there.o -o ${work_dir}/program
                    RESULT_VARIABLE result ERROR_VARIABLE errors)
    if(flags STREQUAL "${here_flags}")
      if(NOT result EQUAL 0)
        message(FATAL_ERROR "objects of the same flags do not link: ${errors}")
      endif()
    elseif(result EQUAL 0 OR NOT errors MATCHES "undefined reference to .reformer::.*answer")
      message(FATAL_ERROR "'${here_flags}' and '${flags}' link, or not for the name: ${errors}")
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
  if(way STREQUAL "compiled")
    # Optimised little: how it is found, linked and loaded does not depend on that.
    set(without -D REFORMER_BUILD_COMPILED=ON -D CMAKE_BUILD_TYPE=Release
                "-DCMAKE_CXX_FLAGS_RELEASE=-O1 ${memory}")
  endif()
  run(${CMAKE_COMMAND} -S ${reformer_source_dir} -B ${work_dir}/library ${options} ${without})
  run(${CMAKE_COMMAND} --build ${work_dir}/library)
  run(${CMAKE_COMMAND} --install ${work_dir}/library --prefix ${work_dir}/first)
  file(RENAME ${work_dir}/first ${work_dir}/prefix)
  set(prefix -D CMAKE_PREFIX_PATH=${work_dir}/prefix)
endif()
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${work_dir}/build ${options} ${prefix}
    -D way=${way} -D reformer_source_dir=${reformer_source_dir}
    -D reformer_version=${reformer_version} -D with_mpi=${with_mpi}
    # A user who stops at the first warning, whatever the library does.
    "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wconversion -Wshadow -Werror ${memory}")
if(way STREQUAL "compiled")
  # As the loader takes it, and with what the processor cannot do taken away, wide vectors first. The
  # program is compiled for any processor, and the loss is that of examples/train.cpp to two digits.
  run(${CMAKE_COMMAND} --build ${work_dir}/build)
  foreach(mask "" -AVX512F -AVX2)
    set(ENV{GLIBC_TUNABLES} glibc.cpu.hwcaps=${mask})
    set(ENV{LD_DEBUG} libs)
    execute_process(COMMAND ${work_dir}/build/consume_compiled OUTPUT_VARIABLE printed
                    ERROR_VARIABLE loader COMMAND_ERROR_IS_FATAL ANY)
    if(NOT printed MATCHES "step 120: loss ([0-9.]+)" OR CMAKE_MATCH_1 GREATER 1.0)
      message(FATAL_ERROR "compiled with ${mask}: it prints ${printed}")
    endif()
    string(REGEX MATCH "calling init: [^\n]*libreformer[^\n]*" taken "${loader}")
    message(STATUS "${mask} ${taken}")
    if((mask STREQUAL "-AVX512F" AND taken MATCHES "x86-64-v4")
       OR (mask STREQUAL "-AVX2" AND taken MATCHES "hwcaps"))
      message(FATAL_ERROR "the loader takes ${taken} with ${mask}")
    endif()
  endforeach()
  return()
endif()
if(way STREQUAL "eigen5")
  # A project may bring nlohmann_json as a target, where no package is.
  run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${work_dir}/build -D brings_json=ON
      -D CMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON)
  return() # the headers are those of another version
endif()
run(${CMAKE_COMMAND} --build ${work_dir}/build)
foreach(program consume consume_threads consume_io)
  if(program STREQUAL "consume" OR EXISTS ${work_dir}/build/${program})
    run(${work_dir}/build/${program})
  endif()
endforeach()

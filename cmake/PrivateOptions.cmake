# SPDX-License-Identifier: MIT
# Flags of our own executables. The library's target never links this, so that users keep theirs.
include(CheckCXXCompilerFlag)

add_library(reformer_portable_options INTERFACE) # for any processor
add_library(reformer_private_options INTERFACE)
target_link_libraries(reformer_private_options INTERFACE reformer_portable_options)
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  target_compile_options(reformer_portable_options INTERFACE -Wall -Wextra -Wpedantic -Wconversion
                                                            -Wshadow)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION MATCHES "^12\\.")
    # False alarms for "text" + std::string, https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105651
    target_compile_options(reformer_portable_options INTERFACE -Wno-restrict)
  endif()
  if(REFORMER_WARNINGS_AS_ERRORS)
    target_compile_options(reformer_portable_options INTERFACE -Werror)
  endif()
endif()

# gcc collects garbage all the time unless it is told that there is memory: a twelfth to an eighth of
# what our sources take to compile.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(reformer_portable_options INTERFACE --param=ggc-min-heapsize=524288) # kB
endif()

if(REFORMER_USE_OPENMP)
  find_package(OpenMP COMPONENTS CXX)
  if(OpenMP_CXX_FOUND)
    target_link_libraries(reformer_portable_options INTERFACE OpenMP::OpenMP_CXX)
  else()
    message(STATUS "reformer: no OpenMP, loops run on one thread")
  endif()
endif()

if(REFORMER_NATIVE)
  # Not every compiler knows -march=native for every processor.
  check_cxx_compiler_flag(-march=native REFORMER_HAS_MARCH_NATIVE)
  if(REFORMER_HAS_MARCH_NATIVE)
    target_compile_options(reformer_private_options INTERFACE -march=native)
  endif()
endif()

if(REFORMER_SANITIZE)
  target_compile_options(reformer_private_options INTERFACE
                         -fsanitize=${REFORMER_SANITIZE} -fno-sanitize-recover=all
                         -fno-omit-frame-pointer)
  target_link_options(reformer_private_options INTERFACE -fsanitize=${REFORMER_SANITIZE})
endif()

# Up to `count` sources of a target as one, for most of what there is to compile is in the headers they
# share: names in their unnamed namespaces must differ. Sources with options of their own stay alone, and
# all do where a launcher such as ccache would take the others for new ones with the first that changes.
function(compile_together target count)
  if(NOT CMAKE_CXX_COMPILER_LAUNCHER)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${count})
  endif()
endfunction()

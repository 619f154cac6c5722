# SPDX-License-Identifier: MIT
# The library compiled, for programs that are built for any processor: target reformer::compiled.
#
# It is a shared library of which there are several files: one for every processor of the kind, and
# beside it, for x86-64, glibc-hwcaps/x86-64-v3 (AVX2 and FMA) and glibc-hwcaps/x86-64-v4 (AVX-512).
# The dynamic loader of glibc (2.33 and newer) takes the best one that the processor can run, wherever
# it finds the library; other loaders take the first. All have the names of foundation/abi.hpp for
# REFORMER_COMPILED, and hide every other: neither the program's copies of inline functions replace
# those of the library, which use wider vectors, nor the other way round.
include(CheckCXXCompilerFlag)
include(GNUInstallDirs)

set(compiled_soversion ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
set(compiled_dir ${PROJECT_BINARY_DIR}/lib)

if(REFORMER_USE_OPENMP)
  find_package(OpenMP COMPONENTS CXX)
endif()

# folder: where it stands below the library; options: the processors it is for
function(add_compiled target folder)
  add_library(${target} SHARED ${PROJECT_SOURCE_DIR}/src/instances.cpp)
  target_link_libraries(${target} PUBLIC reformer)
  # Eigen puts what it allocates on a boundary of that many bytes: the most that any variant wants.
  target_compile_definitions(${target} PUBLIC REFORMER_COMPILED EIGEN_MAX_ALIGN_BYTES=64)
  target_compile_options(${target} PRIVATE ${ARGN})
  target_link_options(${target} PRIVATE LINKER:-Bsymbolic)
  if(REFORMER_USE_OPENMP AND OpenMP_CXX_FOUND) # a parent project may have looked for it
    # Not as a target, which a user of the package would have to have.
    separate_arguments(flags NATIVE_COMMAND "${OpenMP_CXX_FLAGS}")
    target_compile_options(${target} PRIVATE ${flags})
    target_link_libraries(${target} PRIVATE ${OpenMP_CXX_LIBRARIES})
  endif()
  set_target_properties(
    ${target}
    PROPERTIES OUTPUT_NAME reformer
               VERSION ${PROJECT_VERSION}
               SOVERSION ${compiled_soversion}
               LIBRARY_OUTPUT_DIRECTORY ${compiled_dir}/${folder}
               CXX_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON)
endfunction()

add_compiled(reformer_compiled "")
add_library(reformer::compiled ALIAS reformer_compiled)
set_target_properties(reformer_compiled PROPERTIES EXPORT_NAME compiled)

set(compiled_variants "")
if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  foreach(level x86-64-v3 x86-64-v4)
    string(MAKE_C_IDENTIFIER REFORMER_HAS_MARCH_${level} has_march)
    check_cxx_compiler_flag(-march=${level} ${has_march})
    if(${has_march})
      string(REPLACE "x86-64-" "reformer_compiled_" target ${level})
      add_compiled(${target} glibc-hwcaps/${level} -march=${level})
      add_dependencies(reformer_compiled ${target})
      list(APPEND compiled_variants ${level})
    endif()
  endforeach()
endif()

if(REFORMER_INSTALL)
  install(TARGETS reformer_compiled EXPORT reformer-targets
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  foreach(level IN LISTS compiled_variants)
    string(REPLACE "x86-64-" "reformer_compiled_" target ${level})
    install(TARGETS ${target}
            LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/glibc-hwcaps/${level} NAMELINK_SKIP)
  endforeach()
endif()

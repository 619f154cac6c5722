# SPDX-License-Identifier: MIT
# Headers, and a package for find_package(reformer CONFIG).
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# Headers do not depend on the processor, so a package of them lives in share, not in lib.
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/reformer)
set(arch_independent ARCH_INDEPENDENT)
if(REFORMER_BUILD_COMPILED)
  set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/reformer)
  set(arch_independent "")
endif()

write_basic_package_version_file(${PROJECT_BINARY_DIR}/reformer-config-version.cmake
                                 COMPATIBILITY SameMinorVersion ${arch_independent})

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/reformer DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.hpp")
# The sources of reformer::instances and, for whoever has JSON, reformer::io_instances.
set(instances_dir ${CMAKE_INSTALL_DATADIR}/reformer)
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/reformer-config.cmake.in ${PROJECT_BINARY_DIR}/reformer-config.cmake
  INSTALL_DESTINATION ${package_dir} PATH_VARS instances_dir)
install(FILES ${PROJECT_SOURCE_DIR}/src/instances.cpp ${PROJECT_SOURCE_DIR}/src/io_instances.cpp
        DESTINATION ${instances_dir})
if(NOT IS_ABSOLUTE ${instances_dir})
  string(PREPEND instances_dir $<INSTALL_PREFIX>/)
endif()
target_sources(reformer_instances INTERFACE $<INSTALL_INTERFACE:${instances_dir}/instances.cpp>)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES ${PROJECT_BINARY_DIR}/reformer-config.cmake
              ${PROJECT_BINARY_DIR}/reformer-config-version.cmake
        DESTINATION ${package_dir})
install(TARGETS reformer reformer_instances EXPORT reformer-targets
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT reformer-targets NAMESPACE reformer:: DESTINATION ${package_dir})

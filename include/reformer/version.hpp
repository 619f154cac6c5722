// SPDX-License-Identifier: MIT
/// @file
/// Version of the library; the build system and the packages read it from here.
#pragma once

#define REFORMER_VERSION_MAJOR 0
#define REFORMER_VERSION_MINOR 1
#define REFORMER_VERSION_PATCH 0
#define REFORMER_VERSION_STRING "0.1.0"

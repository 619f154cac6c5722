// SPDX-License-Identifier: MIT
/// What nearly every test includes, read once: see tests/CMakeLists.txt. A test includes what it
/// needs all the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

#include <gtest/gtest.h>

#include "support/compiled.hpp"

// SPDX-License-Identifier: MIT
/// What nearly every source of the programs includes, read once: see ../CMakeLists.txt. A source
/// includes what it needs all the same.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

// SPDX-License-Identifier: MIT
#define REFORMER_TEST_TEMPLATE template
#include "support/compiled.hpp"

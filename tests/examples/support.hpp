// SPDX-License-Identifier: MIT
/// @file
/// Files and checks of messages, for the tests of the examples.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/errors.hpp"
#include "support/files.hpp"

namespace training::test {

using Strings = std::vector<std::string>;

using reformer::test::contains;
using reformer::test::FileSizeLimit;
using reformer::test::message_of;
using reformer::test::read_file;
using reformer::test::TemporaryFolder;
using reformer::test::write_file;

}  // namespace training::test

namespace enwik8::test {

// Tests of a trainer name what all trainers share.
using namespace training;
using namespace training::test;

}  // namespace enwik8::test

// SPDX-License-Identifier: MIT
/// @file
/// The whole library but file formats and MPI: floors 1 to 8 of the design.
#pragma once

#include "reformer/attention/attention.hpp"
#include "reformer/attention/self_attention.hpp"
#include "reformer/distributed/data_parallel.hpp"
#include "reformer/distributed/single_process.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/model/generation.hpp"
#include "reformer/model/model.hpp"
#include "reformer/operations/feed_forward.hpp"
#include "reformer/reversible/sequence.hpp"
#include "reformer/training/adafactor.hpp"
#include "reformer/training/adam.hpp"
#include "reformer/training/clipping.hpp"
#include "reformer/training/muon.hpp"
#include "reformer/training/schedule.hpp"
#include "reformer/version.hpp"

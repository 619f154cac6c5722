// SPDX-License-Identifier: MIT
/// @file
/// What a training step stores instead of computing it again, for a number of bytes.
///
/// Going back, each branch is computed once more: it is subtracted, and its inner values are needed
/// for the gradients. Some of that can be bought back with memory, branch by branch:
///
/// | what is stored        | a token                       | what need not be computed       |
/// |-----------------------|-------------------------------|---------------------------------|
/// | input of attention    | D scalars                     | output projection, H K D        |
/// | context of attention  | H K + 3 H scalars, bucket ids | attention, 2 H K times the keys |
/// | input of feed-forward | D scalars                     | second product, F D             |
/// | u of feed-forward     | F scalars                     | first product, D F              |
///
/// The input is the half that the branch adds itself to, as it was before; u is what the activation
/// is applied to. Rows of a context have up to 31 scalars between them. Where keys are not queries,
/// the context is H K + 2 H scalars, without ids. The rest is computed again for the gradients
/// anyway. Branches of other types say for themselves what storing saves: see `ReversibleBranch`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/pass.hpp"

namespace reformer::inline REFORMER_ABI {

/// The choice for all branches of a stack; empty: nothing is stored.
using StoragePlan = std::vector<BranchStorage>;

namespace detail {
/// Something that can be stored, its price and its worth.
struct StorageItem {
  std::size_t branch = 0;
  bool BranchStorage::*what = nullptr;
  std::size_t bytes = 0;
  double work = 0;  ///< multiply-adds saved, in units of those of a dense product
};

/// Takes what saves most work for each byte first, as long as it fits; of equals, the lowest
/// branch.
/// @throw std::invalid_argument for an item without a branch of the stack or without a field, or
/// whose work is negative or not finite
inline StoragePlan choose_storage(std::size_t num_branches, std::vector<StorageItem> items,
                                  std::size_t budget) {
  constexpr auto function = "choose_storage";
  for (std::size_t i = 0; i < items.size(); ++i) {
    const StorageItem& item = items[i];
    check(item.branch < num_branches, function, "items[", i, "].branch is ", item.branch,
          ", must be less than num_branches = ", num_branches);
    check(item.what != nullptr, function, "items[", i,
          "].what is null, must be a member of BranchStorage");
    check(item.work >= 0 && std::isfinite(item.work), function, "items[", i, "].work is ",
          item.work, ", must be finite and not negative");
  }
  std::stable_sort(items.begin(), items.end(), [](const StorageItem& a, const StorageItem& b) {
    return a.work * static_cast<double>(b.bytes) > b.work * static_cast<double>(a.bytes);
  });
  StoragePlan plan(num_branches);
  for (const StorageItem& item : items) {
    if (item.bytes > budget) continue;
    budget -= item.bytes;
    plan[item.branch].*item.what = true;
  }
  return plan;
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI

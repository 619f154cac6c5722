// SPDX-License-Identifier: MIT
/// @file
/// What a training step stores instead of computing it again, for a number of bytes.
///
/// Going back through a block, its branches are computed once more: they are subtracted, and their
/// inner values are needed for the gradients. Some of that can be bought back with memory, layer by
/// layer:
///
/// | what is stored        | a token                       | what need not be computed       |
/// |-----------------------|-------------------------------|---------------------------------|
/// | attention's input     | D scalars                     | output projection, H K D        |
/// | feed-forward's input  | D scalars                     | second product, F D             |
/// | context               | H K + 3 H scalars, bucket ids | attention, 2 H K times the keys |
///
/// The rest, the products before, is needed for the gradients anyway.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::inline REFORMER_ABI {

/// What is stored of one layer.
struct LayerStorage {
  bool attention_input = false;     ///< x_1, before attention is added to it
  bool feed_forward_input = false;  ///< x_2, before feed-forward is added to it
  bool context = false;             ///< what attention gives before the output projection

  bool operator==(const LayerStorage&) const = default;
};

/// The choice for all layers; empty: nothing is stored.
using StoragePlan = std::vector<LayerStorage>;

/// Something that can be stored, its price and its worth.
struct StorageItem {
  std::size_t layer = 0;
  bool LayerStorage::*what = nullptr;
  std::size_t bytes = 0;
  double work = 0;  ///< multiply-adds saved, in units of those of a dense product
};

/// Takes what saves most work for each byte first, as long as it fits; of equals, the lowest layer.
/// @throw std::invalid_argument for an item without a layer of the model or without a field, or
/// whose work is negative or not finite
inline StoragePlan choose_storage(std::size_t num_layers, std::vector<StorageItem> items,
                                  std::size_t budget) {
  constexpr auto function = "choose_storage";
  for (std::size_t i = 0; i < items.size(); ++i) {
    const StorageItem& item = items[i];
    check(item.layer < num_layers, function, "items[", i, "].layer is ", item.layer,
          ", must be less than num_layers = ", num_layers);
    check(item.what != nullptr, function, "items[", i,
          "].what is null, must be a member of LayerStorage");
    check(item.work >= 0 && std::isfinite(item.work), function, "items[", i, "].work is ",
          item.work, ", must be finite and not negative");
  }
  std::stable_sort(items.begin(), items.end(), [](const StorageItem& a, const StorageItem& b) {
    return a.work * static_cast<double>(b.bytes) > b.work * static_cast<double>(a.bytes);
  });
  StoragePlan plan(num_layers);
  for (const StorageItem& item : items) {
    if (item.bytes > budget) continue;
    budget -= item.bytes;
    plan[item.layer].*item.what = true;
  }
  return plan;
}

}  // namespace reformer::inline REFORMER_ABI

// SPDX-License-Identifier: MIT
/// @file
/// How far the library is from HuggingFace on a folder with a model and what HuggingFace computed
/// with it.
///
/// A folder holds `config.json`, the weights, and one or more `expected*.safetensors` with
/// `input_ids` and any of these, by their names in HuggingFace; `i` is a layer:
///
/// | tensor                  | shape           | meaning                                          |
/// |-------------------------|-----------------|--------------------------------------------------|
/// | input_ids               | [B, L]          |                                                  |
/// | attention_mask          | [B, L]          | 1 real, 0 padding; absent: all real              |
/// | labels                  | [B, L]          | of the loss; -100 is not counted                 |
/// | rotations.i             | [H, K, R, c]    | needed for layers that hash                      |
/// | buckets.i               | [B, H, R, L']   | at the padded length, offset of the round added  |
/// | logits, loss, loss_f64  | [B, L, V], [1]  |                                                  |
/// | hidden_states.i         | [B, L, D]       | second stream before layer i, and after the last |
/// | attn_output.i           | [B, L, D]       | first stream after layer i                       |
/// | last_hidden_state       | [B, L, 2D]      | after the last norm                              |
/// | grad_output             | [B, L, 2D]      | gradients are those of sum(grad_output *
/// last_hidden_state) | | grad.<tensor>           |                 | gradient of that, or of the
/// loss                 |
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace reformer::test {

/// The largest deviation among the tensors of one kind.
struct Deviation {
  std::string kind;
  double allowed = 0;
  double largest = 0;
  std::string where;       ///< "logits[0, 3, 17]"
  std::string values;      ///< "0.5, expected 0.25"
  bool judged = true;      ///< nothing depends on the rows of padded tokens, so they are only shown
  long long compared = 0;  ///< elements

  bool good() const { return !judged || largest <= allowed; }  // NaN is not good
};

/// Compares everything that one file expects.
/// @param file  `<folder>/expected*.safetensors`
/// @throw std::runtime_error when files do not make sense together
template <typename Scalar>
std::vector<Deviation> check_parity(const std::filesystem::path& file);

extern template std::vector<Deviation> check_parity<float>(const std::filesystem::path&);
extern template std::vector<Deviation> check_parity<double>(const std::filesystem::path&);

/// The `expected*.safetensors` of a folder, sorted. @throw std::runtime_error if there is none
std::vector<std::filesystem::path> expected_files(const std::filesystem::path& folder);

}  // namespace reformer::test

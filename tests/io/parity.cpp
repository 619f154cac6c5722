// SPDX-License-Identifier: MIT
#include "io/parity.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>
#include <stdexcept>

#include "reformer/io/huggingface.hpp"

namespace reformer::test {
namespace {

namespace fs = std::filesystem;

/// Absolute, and for gradients relative to the largest magnitude of the tensor.
template <typename Scalar>
struct Tolerance {
  static constexpr double values = 1e-5, loss = 1e-6, gradients = 1e-5;
};
template <>
struct Tolerance<double> {  // what is stored was rounded to float
  static constexpr double values = 1e-6, loss = 1e-6, gradients = 1e-6;
};

template <typename Scalar>
class Comparison {
 public:
  explicit Comparison(const fs::path& path)
      : file_(path), hf_(HuggingFaceModel<Scalar>::load(path.parent_path())), workspace_(0) {}

  std::vector<Deviation> run() {
    read_input();
    set_rotations();
    compare_trace();
    compare_outputs();
    compare_gradients();
    for (const StoredTensor& tensor : file_.tensors()) {
      if (!used_.contains(tensor.name)) {
        fail("tensor '", tensor.name, "' is of no known kind or does not fit the model");
      }
    }
    return std::move(deviations_);
  }

 private:
  using Values = std::vector<double>;
  using T = Tolerance<Scalar>;

  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw std::runtime_error(detail::join("'", file_.path().string(), "': ", parts...));
  }

  const StoredTensor* find(const std::string& name) {
    const StoredTensor* tensor = file_.find(name);
    if (tensor != nullptr) used_.insert(name);
    return tensor;
  }

  /// Values of a tensor that must have this shape.
  Values values(const StoredTensor& tensor, const std::vector<Index>& shape) {
    if (tensor.shape != shape) {
      fail("tensor '", tensor.name, "' is ", detail::shape_text(tensor.shape), ", must be ",
           detail::shape_text(shape));
    }
    Values result(static_cast<std::size_t>(tensor.size()));
    file_.read(tensor, MatrixView<double>(result.data(), 1, tensor.size()));
    return result;
  }

  void read_input() {
    const StoredTensor* ids = find("input_ids");
    if (ids == nullptr || ids->shape.size() != 2) fail("there is no input_ids [B, L]");
    B_ = ids->shape[0];
    L_ = ids->shape[1];
    tokens_ = integers(*ids);
    if (const StoredTensor* mask = find("attention_mask")) {
      const Tokens real = integers(*mask);
      for (Index i = 0; i < real.size(); ++i) is_real_.push_back(real.data()[i] != 0 ? 1 : 0);
    }
    padded_ = hf_.pad(tokens_, is_real_);
    options_ = padded_.options({});
  }

  Tokens integers(const StoredTensor& tensor) {
    if (tensor.shape != std::vector<Index>{B_, L_}) fail("'", tensor.name, "' is not [B, L]");
    const auto values = file_.read_integers(tensor);
    Tokens tokens(B_, L_);
    for (Index i = 0; i < tokens.size(); ++i) {
      tokens.data()[i] = static_cast<std::int32_t>(values[static_cast<std::size_t>(i)]);
    }
    return tokens;
  }

  Index num_layers() const { return static_cast<Index>(hf_.config().model.layers.size()); }
  Index padded_length() const { return padded_.tokens.dimension(1); }
  const LshPattern* hashed(Index layer) const {
    const auto& pattern = hf_.config().model.layers[static_cast<std::size_t>(layer)];
    const auto* lsh = std::get_if<LshPattern>(&pattern.of_heads.front());  // that of all heads
    return lsh != nullptr && hashes(*lsh, padded_length()) ? lsh : nullptr;
  }

  void set_rotations() {
    const ModelConfig& config = hf_.config().model;
    for (Index i = 0; i < num_layers(); ++i) {
      const StoredTensor* stored = find("rotations." + std::to_string(i));
      const LshPattern* lsh = hashed(i);
      if (lsh == nullptr) continue;
      if (stored == nullptr) fail("layer ", i, " hashes, so there must be rotations.", i);
      const Index columns = rotation_columns(bucket_factors(*lsh, padded_length()));
      const Values rotations =
          values(*stored, {config.num_heads, config.head_width, lsh->num_hashes, columns});
      Tensor<Scalar, 4> tensor(config.num_heads, config.head_width, lsh->num_hashes, columns);
      std::transform(rotations.begin(), rotations.end(), tensor.data(),
                     [](double x) { return static_cast<Scalar>(x); });
      hf_.model().template branch<SelfAttention<Scalar>>(i)->set_rotations(tensor);
    }
  }

  bool is_padding(Index b, Index t) const {
    return !is_real_.empty() && is_real_[static_cast<std::size_t>(b * L_ + t)] == 0;
  }

  Deviation& deviation(const std::string& kind, double allowed, bool judged = true) {
    for (Deviation& d : deviations_) {
      if (d.kind == kind) return d;
    }
    Deviation d;
    d.kind = kind;
    d.allowed = allowed;
    d.judged = judged;
    deviations_.push_back(d);
    return deviations_.back();
  }

  void note(Deviation& d, double is, double expected, double scale, const std::string& name,
            const std::vector<Index>& shape, Index index) {
    const double difference = std::abs(is - expected) / scale;
    ++d.compared;
    if (d.where.empty() || difference > d.largest || std::isnan(difference)) {
      if (std::isnan(d.largest)) return;
      std::vector<Index> place(shape.size());
      for (std::size_t i = shape.size(); i-- > 0; index /= shape[i]) place[i] = index % shape[i];
      d.largest = difference;
      d.where = name + detail::shape_text(place);
      std::ostringstream text;
      text.precision(9);
      text << is << ", expected " << expected;
      d.values = text.str();
    }
  }

  /// Compares rows `[B, L, n]`; `at(b, t)` is a row of n values.
  template <typename Row>
  void compare_rows(const std::string& kind, const std::string& name, Index n, const Row& at) {
    const StoredTensor* stored = find(name);
    if (stored == nullptr) return;
    const std::vector<Index> shape = {B_, L_, n};
    const Values expected = values(*stored, shape);
    for (Index b = 0; b < B_; ++b) {
      for (Index t = 0; t < L_; ++t) {
        const bool padding = is_padding(b, t);
        Deviation& d = deviation(padding ? kind + " of padded tokens" : kind, T::values, !padding);
        const auto row = at(b, t);
        for (Index j = 0; j < n; ++j) {
          const Index index = (b * L_ + t) * n + j;
          note(d, static_cast<double>(row[j]), expected[static_cast<std::size_t>(index)], 1, name,
               shape, index);
        }
      }
    }
  }

  void compare_trace() {
    const Index D = hf_.config().model.width;
    hf_.model().trace(workspace_, padded_.tokens, options_, [&](Index layer, const auto& halves) {
      std::vector<Scalar> row(static_cast<std::size_t>(D));
      const auto rows_of_half = [&](const auto& half) {
        return [&](Index b, Index t) {
          half.read(b * padded_length() + t, 0, D, row.data());
          return row.data();
        };
      };
      compare_rows("hidden_states", "hidden_states." + std::to_string(layer + 1), D,
                   rows_of_half(halves.second));
      if (layer >= 0) {
        compare_rows("attn_output", "attn_output." + std::to_string(layer), D,
                     rows_of_half(halves.first));
      }
    });
    const bool any_padding = std::any_of(padded_.is_real.begin(), padded_.is_real.end(),
                                         [](std::uint8_t real) { return real == 0; });
    const auto buckets = hf_.model().buckets(workspace_, padded_.tokens, options_);
    for (Index i = 0; i < num_layers(); ++i) {
      const std::string name = "buckets." + std::to_string(i);
      const StoredTensor* stored = find(name);
      const LshPattern* lsh = hashed(i);
      if (stored == nullptr) continue;
      if (lsh == nullptr) fail("layer ", i, " does not hash, but there is ", name);
      const std::vector<Index> shape = {B_, hf_.config().model.num_heads, lsh->num_hashes,
                                        padded_length()};
      if (stored->shape != shape) {
        fail("tensor '", name, "' is ", detail::shape_text(stored->shape), ", must be ",
             detail::shape_text(shape));
      }
      // The padding bucket counts as soon as there is padding anywhere in the batch.
      const Index in_round =
          num_buckets(bucket_factors(*lsh, padded_length())) + (any_padding ? 1 : 0);
      const auto expected = file_.read_integers(*stored);
      const Bucket* ids = buckets[static_cast<std::size_t>(i)].at(0).data();
      Deviation& d = deviation("buckets", 0);
      for (Index k = 0; k < stored->size(); ++k) {
        const Index round = k / padded_length() % lsh->num_hashes;
        note(d, static_cast<double>(ids[k] + round * in_round),
             static_cast<double>(expected[static_cast<std::size_t>(k)]), 1, name, shape, k);
      }
    }
  }

  void compare_outputs() {
    const ModelConfig& config = hf_.config().model;
    const auto rows_of_tensor = [](const Tensor<Scalar, 3>& x) {
      return [&](Index b, Index t) { return &x(b, t, 0); };
    };
    compare_rows("last_hidden_state", "last_hidden_state", 2 * config.width,
                 rows_of_tensor(hf_.encode(workspace_, tokens_, with_mask())));
    if (!config.language_head) return;
    compare_rows("logits", "logits", config.vocabulary,
                 rows_of_tensor(hf_.logits(workspace_, tokens_, with_mask())));
    if (const StoredTensor* stored = find("labels")) {
      labels_ = hf_.loss_labels(integers(*stored));
      const double loss = hf_.loss(workspace_, tokens_, labels_, with_mask()).mean();
      for (const char* name : {"loss", "loss_f64"}) {
        if (const StoredTensor* expected = find(name)) {
          note(deviation("loss", T::loss), loss, values(*expected, {1})[0], 1, name, {1}, 0);
        }
      }
    }
  }

  RunOptions with_mask() const { return {.is_real = is_real_}; }

  void compare_gradients() {
    const bool any = std::any_of(file_.tensors().begin(), file_.tensors().end(),
                                 [](const auto& t) { return t.name.starts_with("grad."); });
    const StoredTensor* grad_output = find("grad_output");
    if (!any) return;
    Model<Scalar>& model = hf_.model();
    model.zero_gradients();
    if (grad_output != nullptr) {
      const Index D2 = 2 * hf_.config().model.width;
      const Values given = values(*grad_output, {B_, L_, D2});
      model.encode_and_gradients(
          workspace_, padded_.tokens, options_, [&](const Tensor<Scalar, 3>& z) {
            Tensor<Scalar, 3> dz(z.dimensions());
            dz.setZero();
            for (Index b = 0; b < B_; ++b) {
              std::transform(given.begin() + b * L_ * D2, given.begin() + (b + 1) * L_ * D2,
                             &dz(b, 0, 0), [](double x) { return static_cast<Scalar>(x); });
            }
            return dz;
          });
    } else if (labels_.size() > 0) {
      const Index count = hf_.loss(workspace_, tokens_, labels_, with_mask()).count;
      hf_.loss_and_gradients(workspace_, tokens_, labels_, Scalar(1) / static_cast<Scalar>(count),
                             with_mask());
    } else {
      fail("there are gradients, but neither grad_output nor labels");
    }
    const auto tensors = huggingface_tensors(hf_.config().model);
    std::size_t next = 0;
    model.for_each_parameter([&](const Parameter<Scalar>& p) {
      const HuggingFaceTensor& tensor = tensors.at(next++);
      const StoredTensor* stored = find("grad.reformer." + tensor.name);
      if (stored == nullptr) stored = find("grad." + tensor.name);
      if (stored == nullptr && tensor.name == "lm_head.bias") {
        stored = find("grad.lm_head.decoder.bias");
      }
      if (stored == nullptr) fail("there are gradients, but none of '", tensor.name, "'");
      const Values expected = values(*stored, tensor.shape);
      double scale = 0;
      for (const double x : expected) scale = std::max(scale, std::abs(x));
      Deviation& d = deviation("gradients", T::gradients);
      for (Index k = 0; k < stored->size(); ++k) {
        const Index columns = tensor.shape.back();
        const Scalar is =
            tensor.transposed ? p.gradient(k % columns, k / columns) : p.gradient.data()[k];
        note(d, static_cast<double>(is), expected[static_cast<std::size_t>(k)],
             scale > 0 ? scale : 1, stored->name, tensor.shape, k);
      }
    });
  }

  SafetensorsFile file_;
  HuggingFaceModel<Scalar> hf_;
  Workspace workspace_;
  Index B_ = 0, L_ = 0;
  Tokens tokens_, labels_;
  std::vector<std::uint8_t> is_real_;
  PaddedTokens padded_;
  RunOptions options_;
  std::set<std::string> used_;
  std::vector<Deviation> deviations_;
};

}  // namespace

template <typename Scalar>
std::vector<Deviation> check_parity(const fs::path& file) {
  return Comparison<Scalar>(file).run();
}

template std::vector<Deviation> check_parity<float>(const fs::path&);
template std::vector<Deviation> check_parity<double>(const fs::path&);

std::vector<fs::path> expected_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("expected") && name.ends_with(".safetensors")) {
      files.push_back(entry.path());
    }
  }
  if (files.empty()) {
    throw std::runtime_error(
        detail::join("'", folder.string(), "' holds no expected*.safetensors"));
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace reformer::test

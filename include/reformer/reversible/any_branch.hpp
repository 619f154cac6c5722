// SPDX-License-Identifier: MIT
/// @file
/// A branch of any type, behind one interface at run time: the branches of a stack are of different
/// types, users' own included. The cost of a virtual call vanishes beside a branch.
#pragma once

#include <any>
#include <concepts>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/reversible/branch.hpp"

namespace reformer::inline REFORMER_ABI {

/// Holds a branch by value, and does what `ReversibleBranch` says it does.
///
/// What it saves is held in a `std::any`; an empty one is a `Saved` without memory.
template <ResidualHalf Half_>
class AnyBranch {
 public:
  using Half = Half_;
  using Scalar = typename Half::Scalar;
  using Saved = std::any;  ///< a `Branch::Saved`, or empty

  /// A `Branch::Decoding`.
  struct DecodingState {
    virtual ~DecodingState() = default;
    /// The sequences that the next calls are for; all at first.
    virtual void select(std::span<const Index> sequences) = 0;
    /// Forgets the selected sequences.
    virtual void clear() = 0;
    /// Of what is kept of the sequences.
    virtual std::size_t bytes() const = 0;
  };
  using Decoding = std::unique_ptr<DecodingState>;

  template <typename Branch>
  requires(!std::same_as<Branch, AnyBranch>) &&
      ReversibleBranch<Branch, Half> AnyBranch(
          Branch branch) {  // NOLINT: a branch is one of any type
    hold(std::move(branch));
  }

  AnyBranch(const AnyBranch& other) : branch_(other.branch_->clone()) {}
  AnyBranch(AnyBranch&&) noexcept = default;
  AnyBranch& operator=(AnyBranch other) noexcept {
    branch_ = std::move(other.branch_);
    return *this;
  }

  /// The branch itself, if it is of this type, or null.
  template <typename Branch>
  Branch* get_if() {
    auto* of = dynamic_cast<Of<Branch>*>(branch_.get());
    return of == nullptr ? nullptr : &of->branch;
  }
  template <typename Branch>
  const Branch* get_if() const {
    const auto* of = dynamic_cast<const Of<Branch>*>(branch_.get());
    return of == nullptr ? nullptr : &of->branch;
  }

  std::string_view label() const { return branch_->label(); }

  /// Memory for what `forward` must leave for `reverse`.
  /// @param context  whether inner values are kept, if the branch can keep some
  Saved saved_in(Scratch& scratch, const SavedPass& pass, bool context = false) const {
    return branch_->saved_in(scratch, pass, context);
  }

  /// Throws `std::invalid_argument` if the branch refuses these arguments, or what is saved is that
  /// of a branch of another type.
  void check_forward(const Half& x, const Half& y, const Saved& saved, const Pass& pass) const {
    branch_->check_forward(x, y, saved, pass);
  }
  /// y += f(x)
  void forward(const Half& x, Half& y, Saved& saved, const Pass& pass) const {
    branch_->forward(x, y, saved, pass);
  }

  void check_reverse(const Half& x, const Half& y, const MatrixView<const Scalar>& dy,
                     const MatrixView<Scalar>& dx, const Saved& saved, const Pass& pass) const {
    branch_->check_reverse(x, y, dy, dx, saved, pass);
  }
  /// y -= f(x) (unless the pass says that it need not), dx += (df/dx)^T dy, parameter gradients +=
  /// ...
  void reverse(const Half& x, Half& y, const MatrixView<const Scalar>& dy,
               const MatrixView<Scalar>& dx, Saved& saved, const Pass& pass) {
    branch_->reverse(x, y, dy, dx, saved, pass);
  }

  /// Scratch of `forward` and of `reverse` in a pass with gradients.
  /// @param workspace  one that only plans
  void plan(Workspace& workspace, const SavedPass& pass, const BranchStorage& stored) const {
    branch_->plan(workspace, pass, stored);
  }
  /// Multiply-adds for each row that `reverse` saves when it need not subtract; 0 if the branch
  /// does not say.
  double output_work() const { return branch_->output_work(); }
  /// Multiply-adds for each row that kept inner values save; 0 if the branch keeps none.
  double context_work(Index length) const { return branch_->context_work(length); }

  /// Whether it is a `DecodableBranch`; else `decoding` and what follows must not be called.
  bool is_decodable() const { return branch_->is_decodable(); }
  Decoding decoding(const Pass& pass) const { return branch_->decoding(pass); }
  void check_prefill(const Half& x, const Half& y, const Decoding& decoding,
                     const Pass& pass) const {
    branch_->check_prefill(x, y, decoding, pass);
  }
  void prefill(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const {
    branch_->prefill(x, y, decoding, pass);
  }
  void check_decode(const Half& x, const Half& y, const Decoding& decoding,
                    const Pass& pass) const {
    branch_->check_decode(x, y, decoding, pass);
  }
  void decode(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const {
    branch_->decode(x, y, decoding, pass);
  }
  void for_each_parameter(auto&& f) { branch_->for_each_parameter(ParameterVisitor<Scalar>(f)); }
  void for_each_parameter(auto&& f) const {
    std::as_const(*branch_).for_each_parameter(ConstParameterVisitor<Scalar>(f));
  }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual std::unique_ptr<Interface> clone() const = 0;
    virtual std::string_view label() const = 0;
    virtual Saved saved_in(Scratch&, const SavedPass&, bool) const = 0;
    virtual void check_forward(const Half&, const Half&, const Saved&, const Pass&) const = 0;
    virtual void forward(const Half&, Half&, Saved&, const Pass&) const = 0;
    virtual void check_reverse(const Half&, const Half&, const MatrixView<const Scalar>&,
                               const MatrixView<Scalar>&, const Saved&, const Pass&) const = 0;
    virtual void reverse(const Half&, Half&, const MatrixView<const Scalar>&,
                         const MatrixView<Scalar>&, Saved&, const Pass&) = 0;
    virtual void plan(Workspace&, const SavedPass&, const BranchStorage&) const = 0;
    virtual double output_work() const = 0;
    virtual double context_work(Index) const = 0;
    virtual bool is_decodable() const = 0;
    virtual Decoding decoding(const Pass&) const = 0;
    virtual void check_prefill(const Half&, const Half&, const Decoding&, const Pass&) const = 0;
    virtual void prefill(const Half&, Half&, Decoding&, const Pass&) const = 0;
    virtual void check_decode(const Half&, const Half&, const Decoding&, const Pass&) const = 0;
    virtual void decode(const Half&, Half&, Decoding&, const Pass&) const = 0;
    virtual void for_each_parameter(ParameterVisitor<Scalar>) = 0;
    virtual void for_each_parameter(ConstParameterVisitor<Scalar>) const = 0;
  };

  template <typename Branch>
  struct State final : DecodingState {
    using Value = typename Branch::Decoding;
    explicit State(Value value_) : value(std::move(value_)) {}
    void select(std::span<const Index> sequences) override {
      if constexpr (requires { value.select(sequences); }) value.select(sequences);
    }
    void clear() override {
      if constexpr (requires { value.clear(); }) value.clear();
    }
    std::size_t bytes() const override {
      if constexpr (requires { value.bytes(); }) return value.bytes();
      return 0;
    }
    Value value;
  };

  template <typename Branch>
  struct Of final : Interface {
    static constexpr bool decodable = DecodableBranch<Branch, Half>;
    static_assert(
        decodable || !requires { typename Branch::Decoding; },
        "a branch with a Decoding has decoding, prefill and decode: see DecodableBranch");

    explicit Of(Branch branch_) : branch(std::move(branch_)) {}
    std::unique_ptr<Interface> clone() const override { return std::make_unique<Of>(branch); }
    std::string_view label() const override { return Branch::label; }

    Saved saved_in(Scratch& scratch, const SavedPass& pass, bool context) const override {
      if constexpr (requires { branch.saved_in(scratch, pass, context); }) {
        return branch.saved_in(scratch, pass, context);
      } else if constexpr (requires { branch.saved_in(scratch, pass); }) {
        return branch.saved_in(scratch, pass);
      } else {
        return typename Branch::Saved{};
      }
    }

    void check_forward(const Half& x, const Half& y, const Saved& saved,
                       const Pass& pass) const override {
      with(saved, [&](const auto& own) {
        if constexpr (requires { branch.check_forward(x, y, own, pass); }) {
          branch.check_forward(x, y, own, pass);
        }
      });
    }
    void forward(const Half& x, Half& y, Saved& saved, const Pass& pass) const override {
      with(saved, [&](auto& own) { branch.forward(x, y, own, pass); });
    }
    void check_reverse(const Half& x, const Half& y, const MatrixView<const Scalar>& dy,
                       const MatrixView<Scalar>& dx, const Saved& saved,
                       const Pass& pass) const override {
      with(saved, [&](const auto& own) {
        if constexpr (requires { branch.check_reverse(x, y, dy, dx, own, pass); }) {
          branch.check_reverse(x, y, dy, dx, own, pass);
        }
      });
    }
    void reverse(const Half& x, Half& y, const MatrixView<const Scalar>& dy,
                 const MatrixView<Scalar>& dx, Saved& saved, const Pass& pass) override {
      with(saved, [&](auto& own) { branch.reverse(x, y, dy, dx, own, pass); });
    }

    void plan(Workspace& workspace, const SavedPass& pass,
              const BranchStorage& stored) const override {
      detail::plan_branch<Half>(branch, workspace, pass, stored);
    }
    double output_work() const override {
      if constexpr (requires { branch.output_work(); }) {
        return branch.output_work();
      } else {
        return 0;
      }
    }
    double context_work(Index length) const override {
      if constexpr (requires { branch.context_work(length); }) {
        return branch.context_work(length);
      } else {
        return 0;
      }
    }

    bool is_decodable() const override { return decodable; }
    Decoding decoding(const Pass& pass) const override {
      if constexpr (decodable) {
        return std::make_unique<State<Branch>>(branch.decoding(pass));
      } else {
        return nullptr;
      }
    }
    void check_prefill(const Half& x, const Half& y, const Decoding& decoding,
                       const Pass& pass) const override {
      of_decoding(decoding, [&](const auto& own) {
        if constexpr (requires { branch.check_prefill(x, y, own, pass); }) {
          branch.check_prefill(x, y, own, pass);
        }
      });
    }
    void prefill(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const override {
      if constexpr (decodable) {
        of_decoding(decoding, [&](auto& own) { branch.prefill(x, y, own, pass); });
      }
    }
    void check_decode(const Half& x, const Half& y, const Decoding& decoding,
                      const Pass& pass) const override {
      of_decoding(decoding, [&](const auto& own) {
        if constexpr (requires { branch.check_decode(x, y, own, pass); }) {
          branch.check_decode(x, y, own, pass);
        }
      });
    }
    void decode(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const override {
      if constexpr (decodable) {
        of_decoding(decoding, [&](auto& own) { branch.decode(x, y, own, pass); });
      }
    }
    void for_each_parameter(ParameterVisitor<Scalar> f) override { branch.for_each_parameter(f); }
    void for_each_parameter(ConstParameterVisitor<Scalar> f) const override {
      branch.for_each_parameter(f);
    }

    Branch branch;

   private:
    /// @param any  `Saved`, which may be const
    template <typename Any, typename Body>
    static void with(Any& any, const Body& body) {
      if (!any.has_value()) {
        typename Branch::Saved none{};
        return body(none);
      }
      auto* own = std::any_cast<typename Branch::Saved>(&any);
      check(own != nullptr, "AnyBranch", "saved is that of another branch, must be that of ",
            Branch::label);
      body(*own);
    }
    template <typename Body>
    static void of_decoding(const Decoding& decoding, const Body& body) {
      if constexpr (decodable) {
        auto* own = dynamic_cast<State<Branch>*>(decoding.get());
        check(own != nullptr, "AnyBranch", "decoding is that of another branch, must be that of ",
              Branch::label);
        body(own->value);
      }
    }
  };

  template <typename Branch>
  void hold(Branch branch);

  std::unique_ptr<Interface> branch_;
};

// Outside of the class, or each source that makes one compiles the branch, whatever is compiled
// elsewhere (REFORMER_EXTERN_INSTANCES).
template <ResidualHalf Half>
template <typename Branch>
void AnyBranch<Half>::hold(Branch branch) {
  branch_ = std::make_unique<Of<Branch>>(std::move(branch));
}

}  // namespace reformer::inline REFORMER_ABI

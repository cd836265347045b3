#include "decode/hidden_transfer/hidden_transfer.h"

#include <cmath>
#include <utility>

#include "decode/generation.h"
#include "decode/hidden_transfer/future_rows.h"
#include "decode/hidden_transfer/state_drafter.h"

namespace tutti::decode {

namespace speculative {
namespace {

class HiddenTransfer final : public StateDrafter {
 public:
  explicit HiddenTransfer(Generation& g)
      : StateDrafter(g, train::TransferMaps::Kind::kLinear),
        carriers_(int_option(g, "carriers", 1, 512)),
        lazy_(int_option(g, "lazy_head", 0, 1) != 0),
        future_(*maps_) {}

  void add_rows(const Tree& tree, int position, engine::Rows& rows) override {
    beside_.clear();
    if (!carrying()) return;
    const auto want = [&](int, int guessed) {
      if (!lazy_) return guess(guessed);
      engine::Want state;
      state.hidden = {g_.engine().model().config().layers};
      return state;
    };
    for (const int node : likeliest_ends(tree, carriers_)) {
      const int count = useful_offsets(tree[node].depth + 1);
      add_future_rows(rows, tree, position, node, count, future_, want, beside_);
    }
  }

  Task<void> read_answer(engine::Context& context, const Tree&, const Accepted& accepted,
                         engine::Answer answer) override {
    std::vector<std::vector<float>> states;
    for (const FutureRow& b : beside_) {
      if (b.node != accepted.nodes.back()) continue;
      engine::RowAnswer& mine = answer.rows[size_t(b.row)];
      if (lazy_) {
        states.push_back(std::move(mine.hidden.front()));
      } else {
        set_level(b.offset, mine);
      }
    }
    if (!states.empty()) co_await guess_from(context, std::move(states));
  }

 protected:
  Carried guessing() const override { return {offsets_, carriers_}; }

 private:
  int carriers_;
  bool lazy_;
  FutureMaps future_;
  std::vector<FutureRow> beside_;  // of the forward that runs
};

// Every row leaves its last state; blocks and head read that of the last node that stands.
class Medusa final : public StateDrafter {
 public:
  explicit Medusa(Generation& g) : StateDrafter(g, train::TransferMaps::Kind::kMedusa) {
    for (const auto& map : maps_->maps)
      linear_.push_back(models::LinearMap::make(maps_->hidden, map.weight, map.bias));
  }

  void add_rows(const Tree& tree, int, engine::Rows& rows) override {
    if (!carrying()) return;
    const int layers = g_.engine().model().config().layers;
    for (int node = 0; node < tree.size(); ++node) rows.rows[size_t(node)].want->hidden = {layers};
  }

  Task<void> read_answer(engine::Context& context, const Tree&, const Accepted& accepted,
                         engine::Answer answer) override {
    const auto& hidden = answer.rows[size_t(accepted.nodes.back())].hidden;
    if (hidden.empty()) co_return;
    std::vector<std::vector<float>> states;
    for (int offset = 0; offset < useful_offsets(0); ++offset)
      states.push_back(block(offset, hidden.front()));
    if (!states.empty()) co_await guess_from(context, std::move(states));
  }

 protected:
  // The head's rows are a forward of their own, which reads the head's matrix once more: about
  // what so many rows cost.
  Carried guessing() const override { return {offsets_, 1}; }

 private:
  // u + silu(W u + b), u being the state over its root mean square.
  std::vector<float> block(int offset, const std::vector<float>& state) const {
    const models::LinearMap& map = *linear_[linear_.size() == 1 ? 0 : size_t(offset)];
    double squares = 0;
    for (const float x : state) squares += double(x) * x;
    const double scale = 1 / std::sqrt(squares / double(state.size()) +
                                       double(g_.engine().model().config().norm_eps));
    std::vector<float> u, z(state.size());
    for (const float x : state) u.push_back(float(x * scale));
    tensor::kernels().matmul_dense(map.packed, u.data(), u.size(), 1, 0, map.packed.tiles(),
                                   z.data(), z.size());
    for (size_t i = 0; i < u.size(); ++i) {
      const float y = z[i] + (map.bias.empty() ? 0.0f : map.bias[i]);
      u[i] += y / (1 + std::exp(-y));
    }
    return u;
  }

  std::vector<std::shared_ptr<const models::LinearMap>> linear_;
};

}  // namespace
}  // namespace speculative

std::vector<MethodOption> hidden_transfer_options() {
  auto options = speculative::state_options();
  options.insert(options.end() - 1,
                 {{"carriers", "4",
                   "rows of a forward that have guesses beside them at most, 1 to 512: those where "
                   "the text is likeliest to leave the tree"},
                  {"lazy_head", "0",
                   "1: the head reads the guesses after the last token that stands alone, in a "
                   "forward of its own; 0: all guesses, in the same forward"}});
  return options;
}

Task<void> hidden_transfer(Generation& g) {
  const bool adaptive = speculative::adaptive_option(g);
  speculative::HiddenTransfer drafter(g);
  co_await speculative::speculate(g, drafter, speculative::Verification::kMatch, adaptive);
}

std::vector<MethodOption> medusa_options() { return speculative::state_options(); }

Task<void> medusa(Generation& g) {
  const bool adaptive = speculative::adaptive_option(g);
  speculative::Medusa drafter(g);
  co_await speculative::speculate(g, drafter, speculative::Verification::kMatch, adaptive);
}

}  // namespace tutti::decode

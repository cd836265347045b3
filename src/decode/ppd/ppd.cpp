#include "decode/ppd/ppd.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "decode/generation.h"
#include "decode/method_files.h"
#include "decode/ppd/beside.h"
#include "decode/ppd/step.h"
#include "decode/ppd/tree_choice.h"
#include "decode/speculative/lookup.h"
#include "decode/speculative/speculate.h"

namespace tutti::decode {

namespace ppd {
namespace {

using speculative::Accepted;
using speculative::Tree;

// What the options name: of files that were read already, or read now.
std::shared_ptr<const Files> files_of(const Generation& g) {
  const std::string folder = text_option(g, "prompt_tokens"), tree = text_option(g, "tree");
  const MethodFiles* read = g.options().files.get();
  if (read && read->ppd && read->prompt_tokens == folder && read->tree == tree) return read->ppd;
  return read_files(folder, tree, g.engine().model().config());
}

class Decoder {
 public:
  explicit Decoder(Generation& g)
      : g_(g),
        files_(files_of(g)),
        choice_(files_->trees.trees, int_option(g, "rows", 0, 1024)),
        lazy_(lazy_option(g)),
        widest_(widest_row(files_->trees)) {
    speculative::LookupOptions lookup;
    lookup.longest = int_option(g, "lookup", 0, 256);
    if (lookup.longest > 0) beside_.emplace(speculative::lookup_drafter(g, lookup));
  }

  Task<void> run() {
    speculative::Pace pace(g_.engine().cost(), g_.engine().statistics(), true);
    engine::Context context = co_await g_.prefill();
    if (!g_.output().empty()) ++g_.statistics().forwards;
    while (!g_.done()) {
      pace.begin(context.size() + 1);
      const int room = g_.room() - 1;  // the forward itself picks one more
      StepTree step = plan(pace, room);
      const double expected = expected_of(step.tree);
      if (beside_ && room > 0) co_await beside_->add(context, pace, room, step);
      step = pruned(step, room, room - 1, g_.rule(), vocabulary(),
                    [&](int32_t token) { return g_.is_end(token); });
      const size_t before = g_.output().size();
      const Accepted accepted = co_await forward(context, step);
      pace.end(rows_of(step), int(g_.output().size() - before));
      if (expected > 0) choice_.learn(expected, planned(step.tree, accepted));
      if (beside_) beside_->learn(step.tree, accepted);
    }
  }

 private:
  static bool lazy_option(const Generation& g) {
    const std::string text = text_option(g, "head");
    if (text != "all" && text != "lazy")
      throw Error(ErrorKind::kUsage, "option head=" + text + ": wants all or lazy");
    return text == "lazy";
  }
  static int widest_row(const speculative::TreeFile& file) {
    size_t most = 1;
    for (const auto& row : file.acceptance) most = std::max(most, row.size());
    return int(most);
  }
  static double expected_of(const Tree& tree) {
    double sum = 0;
    for (int i = 1; i < tree.size(); ++i) sum += tree[i].reach;
    return sum;
  }
  int vocabulary() const { return g_.engine().model().config().vocab; }

  StepTree plan(const speculative::Pace& pace, int room) {
    const speculative::DynamicTree* trees = room > 0 ? choice_.choose(pace) : nullptr;
    if (!trees) return {Tree(g_.last_token()), {0}};
    return place((*trees)[std::min(ahead_.size(), trees->size() - 1)], g_.last_token(), ahead_);
  }

  // The tokens of a prompt row as the request would draw them there. What the text says until then
  // is not known, so penalties are those of the node, and a constraint's state is nobody's.
  engine::Want ranked(const PickRule& rule, int position) const {
    engine::Want want;
    want.pick = true;
    want.sampling = g_.options().sampling;
    want.sampling.ranked = std::min(widest_, vocabulary());
    want.sampling.ranked_probabilities = false;
    want.sampling.logprobs = -1;
    if (rule.history()) want.history = std::make_shared<const engine::History>(*rule.history());
    want.key = rule.key(position);
    return want;
  }

  Task<Accepted> forward(engine::Context& context, const StepTree& step) {
    const int base = context.size(), position = context.next_position();
    const int layers = g_.engine().model().config().layers;
    const PickRule rule = g_.rule();
    const auto want = [&](const PickRule& r, int p) {
      if (!lazy_) return ranked(r, p);
      engine::Want state;
      state.hidden = {layers};
      return state;
    };
    engine::Answer answer =
        co_await g_.forward(context, rows_of(step, files_->prompts, rule, position, want));
    const Accepted accepted = speculative::match(step.tree, answer);
    const int node = accepted.nodes.back();
    speculative::settle(g_, context, base, rows_of(step), step.tree, accepted);
    const size_t first = size_t(first_prompt(step, node)),
                 count = size_t(step.prompts[size_t(node)]);
    ahead_.clear();
    if (count == 0 || g_.done()) co_return accepted;
    if (lazy_) answer = co_await read_states(context, answer, first, count);
    for (size_t j = 0; j < count; ++j)
      ahead_.push_back(std::move(answer.rows[(lazy_ ? 0 : first) + j].picked.ranked));
    co_return accepted;
  }

  // The head alone, on the states of the prompts behind the node that stands.
  Task<engine::Answer> read_states(engine::Context& context, const engine::Answer& answer,
                                   size_t first, size_t count) {
    const int layers = g_.engine().model().config().layers, position = context.next_position();
    engine::Rows rows;
    for (size_t j = 0; j < count; ++j) {
      engine::Row row;
      row.in.kind = engine::RowInput::kVector;
      row.in.vector = answer.rows[first + j].hidden.front();
      // The token that was picked stands at `position`, those that the prompts see behind it.
      row.position = position + int(j);
      row.active = {layers, layers};
      row.write = engine::Write::none();
      row.want = ranked(g_.rule(), position + int(j) + 1);
      rows.rows.push_back(std::move(row));
    }
    const auto start = std::chrono::steady_clock::now();
    engine::Answer read = co_await g_.forward(context, std::move(rows));
    MethodStatistics& s = g_.statistics();
    ++s.draft_forwards;
    s.draft_seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    co_return read;
  }

  Generation& g_;
  std::shared_ptr<const Files> files_;
  TreeChoice choice_;
  std::optional<Beside> beside_;
  Candidates ahead_;
  bool lazy_;
  int widest_;
};

}  // namespace
}  // namespace ppd

std::vector<MethodOption> ppd_options() {
  return {{"prompt_tokens", "", "folder of the trained prompt tokens (peft's prompt tuning)"},
          {"tree", "", "file of the dynamic trees; empty: tree.json of that folder"},
          {"rows", "0",
           "0: the tree that pays most by the engine's measured costs; n: the one that "
           "writes the most of those with forwards of n rows at most, 1 to 1024"},
          {"lookup", "0", "tokens that lookup drafts beside, at most; 0: none, to 256"},
          {"head", "all",
           "all: every prompt row takes the head in its forward; lazy: those behind the "
           "node that stands, in one more"}};
}

Task<void> ppd_method(Generation& g) {
  ppd::Decoder decoder(g);
  co_await decoder.run();
}

}  // namespace tutti::decode

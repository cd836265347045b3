#include "decode/speculative/lookup.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "decode/generation.h"
#include "decode/speculative/acceptance.h"
#include "decode/speculative/speculate.h"
#include "decode/speculative/suffix_automaton.h"

namespace tutti::decode {

namespace speculative {
namespace {

// A long prompt enters the automaton over several forwards: programs must not hold up a tick.
constexpr size_t kTokensPerForward = 2048;

// The longer the match, the likelier that it goes on: a kind for 1, 2, 3-4, 5-8, … tokens that
// matched, and one for continuations that are not the first choice.
constexpr int kMatchKinds = 7;
constexpr int kOtherKind = kMatchKinds;
const std::vector<double> kExpected{0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.1};

int kind_of(int matched) {
  return std::min(int(std::bit_width(unsigned(matched - 1))), kMatchKinds - 1);
}

class Lookup final : public Drafter {
 public:
  Lookup(const Generation& g, const LookupOptions& options)
      : g_(g), o_(options), experience_(experience_of(g.engine(), "lookup", kExpected)) {}

  Experience* experience() override { return &experience_; }
  bool free() const override { return true; }

  Task<Tree> draft(engine::Context&, const Pace&, int depth) override {
    Tree tree(g_.last_token());
    if (!read()) co_return tree;
    const auto matches = text_.matches(o_.least, o_.most, o_.branches);
    const int length = std::min(o_.longest, depth);
    for (size_t m = 0; m < matches.size(); ++m) follow(tree, matches[m], m == 0, length);
    if (tree.depth() < o_.shortest) co_return Tree(g_.last_token());
    co_return tree;
  }

  void learn(const Tree& tree, const Accepted& accepted) override {
    acceptance_.learn(tree, accepted);
  }

 private:
  // Appends what is new; false: there is more.
  bool read() {
    const auto& prompt = g_.prompt();
    const auto& output = g_.output();
    const size_t all = prompt.size() + output.size();
    for (size_t n = 0; n < kTokensPerForward && text_.text().size() < all; ++n) {
      const size_t at = text_.text().size();
      text_.append(at < prompt.size() ? prompt[at] : output[at - prompt.size()]);
    }
    return text_.text().size() == all;
  }

  void follow(Tree& tree, const SuffixAutomaton::Match& match, bool first, int length) const {
    const auto& text = text_.text();
    std::vector<int32_t> drafted;
    int node = Tree::kRoot;
    for (int i = 0; i < length; ++i) {
      // A text that repeats itself goes on doing so: past its end, the drafts are its continuation.
      const size_t at = size_t(match.next) + size_t(i);
      const int32_t token = at < text.size() ? text[at] : drafted[at - text.size()];
      drafted.push_back(token);
      const int kind = first || i > 0 ? kind_of(match.length + i) : kOtherKind;
      node = tree.add(node, token, kind, acceptance_[kind]);
    }
  }

  const Generation& g_;
  LookupOptions o_;
  SuffixAutomaton text_;
  Experience& experience_;
  Acceptance acceptance_{experience_.acceptance};
};

LookupOptions options_of(const Generation& g) {
  LookupOptions o;
  o.least = int_option(g, "prompt_lookup_min", 1, 1 << 20);
  o.most = int_option(g, "prompt_lookup_max", 0, 1 << 20);
  o.longest = int_option(g, "draft_max", 1, 256);
  o.shortest = int_option(g, "draft_min", 0, 256);
  o.branches = int_option(g, "branches", 1, 32);
  if (o.most > 0 && o.most < o.least) {
    throw Error(ErrorKind::kUsage,
                "option prompt_lookup_max=" + std::to_string(o.most) +
                    ": is less than prompt_lookup_min=" + std::to_string(o.least));
  }
  if (o.shortest > o.longest) {
    throw Error(ErrorKind::kUsage, "option draft_min=" + std::to_string(o.shortest) +
                                       ": is more than draft_max=" + std::to_string(o.longest));
  }
  return o;
}

}  // namespace

std::unique_ptr<Drafter> lookup_drafter(const Generation& g, const LookupOptions& options) {
  return std::make_unique<Lookup>(g, options);
}

}  // namespace speculative

std::vector<MethodOption> lookup_options() {
  return {
      {"draft_max", "16", "tokens drafted one after the other at most, 1 to 256"},
      {"draft_min", "0", "shorter drafts are left, 0 to 256"},
      {"prompt_lookup_min", "1", "tokens that must have stood before, at least"},
      {"prompt_lookup_max", "0", "tokens that are compared at most; 0: the longest match counts"},
      {"branches", "1", "continuations drafted side by side, 1 to 32"},
      {"verify", "match", "match: the text of plain; rejection: its law"},
      {"adaptive", "1", "1: draft only what pays by the engine's measured costs; 0: all"}};
}

Task<void> lookup(Generation& g) {
  const auto verification = speculative::verification_option(g);
  const bool adaptive = speculative::adaptive_option(g);
  speculative::refuse_for_rejection(g, "branches", "1");
  speculative::Lookup drafter(g, speculative::options_of(g));
  co_await speculative::speculate(g, drafter, verification, adaptive);
}

}  // namespace tutti::decode

// A grammar as a machine over bytes, and which tokens may come next: a context-free grammar's rules
// become small automata that call each other, a state is the set of all places where a text may
// stand (state of an automaton, stack of returns), and a token is allowed where its bytes lead
// somewhere. States and their masks are kept, so that a place that comes back costs a look-up.
// Method: pushdown automata over the vocabulary's prefix tree, as in GBNF (llama.cpp), Outlines and
// XGrammar (arXiv 2411.15100).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/grammar_expression.h"

namespace tutti::text {

class Tokenizer;

struct GrammarLimits {
  int states = 200'000;      // of all automata together
  int depth = 256;           // of nested calls while matching: deeper texts are not in the language
  int places = 512;          // where a text may stand at the same time
  int sets = 20'000;         // sets of places kept in all
  int64_t kept = 1'000'000;  // places in all those sets together, and returns in all stacks
  int64_t work = 5'000'000;  // steps of compiling: what costs no state costs time
};

// The tokens that a grammar may be spelled with, as a tree of their bytes.
class TokenTree {
 public:
  // `bytes`[id]: what a token stands for; empty: never allowed. `ends`: the tokens that end a text.
  TokenTree(const std::vector<std::string>& bytes, std::vector<int32_t> ends);
  // Of all tokens but control ones; `vocabulary`: of the model, which may have more ids than the
  // tokenizer.
  static std::shared_ptr<const TokenTree> of(const Tokenizer& tokenizer, int vocabulary);

  int vocabulary() const { return int(bytes_.size()); }
  const std::string& bytes(int32_t token) const { return bytes_[size_t(token)]; }
  const std::vector<int32_t>& ends() const { return ends_; }

 private:
  friend class Grammar;
  struct Node {
    uint8_t byte = 0;
    int32_t child = -1, sibling = -1;  // node indices
    int32_t tokens = -1;               // first token that ends here; more by next_
  };
  std::vector<std::string> bytes_;
  std::vector<int32_t> ends_;
  std::vector<Node> nodes_;
  std::vector<int32_t> next_;  // by token: another one of the same bytes
};

// Not for several threads at once. A state is a number that stays valid as long as the grammar.
class Grammar {
 public:
  using State = int;
  static constexpr State kNowhere = -1;

  // Throws Error(kUsage) naming the rule: not defined, left-recursive; Error(kLimit): too large.
  Grammar(const GrammarRules& rules, std::shared_ptr<const TokenTree> tokens,
          GrammarLimits limits = {});

  State start() const { return start_; }
  // Where `bytes` lead; kNowhere: the text is not the beginning of any in the language. Throws
  // Error(kLimit).
  State advance(State state, std::string_view bytes);
  State advance(State state, int32_t token) { return advance(state, tokens_->bytes(token)); }
  // Whether the text may end here.
  bool accepts(State state) const { return sets_[size_t(state)]->accepts; }
  // Bit id % 64 of word id / 64: tokens that keep the text in the language; those that end it where
  // it may end, and where nothing else is possible. Throws Error(kLimit).
  std::shared_ptr<const std::vector<uint64_t>> allowed(State state);
  const TokenTree& tokens() const { return *tokens_; }
  // That are kept, each in a kilobyte and its places.
  int states() const { return int(sets_.size()); }

 private:
  struct Edge {
    uint8_t first, last;
    int to;
  };
  struct Node {
    std::vector<Edge> bytes;
    std::vector<int> empty;                  // to
    std::vector<std::pair<int, int>> calls;  // rule, where it returns to
    bool end = false;                        // of its rule
  };
  struct Place {
    int node, stack;
    auto operator<=>(const Place&) const = default;
  };
  struct Set {
    std::vector<Place> places;  // that wait for a byte, ascending
    bool accepts = false;
    std::array<int32_t, 256> next;  // kUnknown: not asked yet
    std::shared_ptr<const std::vector<uint64_t>> allowed;
  };
  static constexpr int32_t kUnknown = -2;

  int add_node();
  int compile(const Expression& e, int from);
  int compile_class(const CodePoints& ranges, int from);
  void work();
  void check_left_recursion(const GrammarRules& rules);
  // Whether nothing can happen there but the end of its rule: a call that returns there returns
  // where the rule would.
  bool only_returns(int node) const;
  int push(int node, int below);
  void keep(size_t more);
  State settle(std::vector<Place> places);
  State step(State state, uint8_t byte);

  std::shared_ptr<const TokenTree> tokens_;
  GrammarLimits limits_;
  std::vector<Node> nodes_;
  std::vector<int> rule_start_;
  struct Stack {
    int node, below, depth;
  };
  std::vector<Stack> stacks_;  // 0: empty
  std::map<std::pair<int, int>, int> stack_of_;
  std::vector<std::unique_ptr<Set>> sets_;
  std::map<std::pair<std::vector<Place>, bool>, State> set_of_;
  State start_ = 0;
  int64_t work_ = 0, kept_ = 0;
};

}  // namespace tutti::text

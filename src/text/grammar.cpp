#include "text/grammar.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "text/tokenizer.h"

namespace tutti::text {

TokenTree::TokenTree(const std::vector<std::string>& bytes, std::vector<int32_t> ends)
    : bytes_(bytes), ends_(std::move(ends)), nodes_(1), next_(bytes.size(), -1) {
  for (const int32_t end : ends_) bytes_[size_t(end)].clear();
  for (size_t id = 0; id < bytes_.size(); ++id) {
    if (bytes_[id].empty()) continue;
    int32_t at = 0;
    for (const char c : bytes_[id]) {
      int32_t child = nodes_[size_t(at)].child;
      while (child >= 0 && nodes_[size_t(child)].byte != uint8_t(c))
        child = nodes_[size_t(child)].sibling;
      if (child < 0) {
        child = int32_t(nodes_.size());
        Node node;
        node.byte = uint8_t(c);
        node.sibling = nodes_[size_t(at)].child;
        nodes_.push_back(node);
        nodes_[size_t(at)].child = child;
      }
      at = child;
    }
    next_[id] = nodes_[size_t(at)].tokens;
    nodes_[size_t(at)].tokens = int32_t(id);
  }
}

std::shared_ptr<const TokenTree> TokenTree::of(const Tokenizer& tokenizer, int vocabulary) {
  std::vector<std::string> bytes(size_t(std::max(vocabulary, int(tokenizer.vocab_size()))));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_control(id)) bytes[size_t(id)] = std::string(tokenizer.token_bytes(id));
  }
  return std::make_shared<TokenTree>(bytes, tokenizer.end_ids());
}

Grammar::Grammar(const GrammarRules& rules, std::shared_ptr<const TokenTree> tokens,
                 GrammarLimits limits)
    : tokens_(std::move(tokens)), limits_(limits), stacks_{{-1, -1, 0}} {
  for (size_t r = 0; r < rules.bodies.size(); ++r) rule_start_.push_back(add_node());
  for (size_t r = 0; r < rules.bodies.size(); ++r) {
    if (!rules.bodies[r])
      throw Error(ErrorKind::kUsage,
                  "grammar: rule " + rules.names[r] + " is named, but not defined");
    nodes_[size_t(compile(*rules.bodies[r], rule_start_[r]))].end = true;
  }
  check_left_recursion(rules);
  start_ = settle({{rule_start_[size_t(rules.root)], 0}});
}

int Grammar::add_node() {
  if (int(nodes_.size()) >= limits_.states) {
    throw Error(ErrorKind::kLimit, "grammar: needs more than " + std::to_string(limits_.states) +
                                       " states; make its repetitions smaller");
  }
  nodes_.emplace_back();
  return int(nodes_.size()) - 1;
}

void Grammar::work() {
  if (++work_ > limits_.work)
    throw Error(ErrorKind::kLimit, "grammar: takes too much work to compile; make it simpler");
}

int Grammar::compile(const Expression& e, int from) {
  work();
  switch (e.kind) {
    case Expression::kBytes:
      for (const char c : e.bytes) {
        const int to = add_node();
        nodes_[size_t(from)].bytes.push_back({uint8_t(c), uint8_t(c), to});
        from = to;
      }
      return from;
    case Expression::kClass:
      return compile_class(e.ranges, from);
    case Expression::kSequence:
      for (const ExpressionPtr& part : e.parts) from = compile(*part, from);
      return from;
    case Expression::kChoice: {
      const int to = add_node();
      for (const ExpressionPtr& part : e.parts) {
        // An entry of its own: a loop at the part's beginning must not lead into the others.
        const int entry = add_node();
        nodes_[size_t(from)].empty.push_back(entry);
        const int end = compile(*part, entry);
        nodes_[size_t(end)].empty.push_back(to);
      }
      return to;
    }
    case Expression::kRepeat: {
      const Expression& part = *e.parts.front();
      for (int i = 0; i < e.least; ++i) from = compile(part, from);
      if (e.most < 0) {
        const int loop = add_node();
        nodes_[size_t(from)].empty.push_back(loop);
        const int end = compile(part, loop);
        nodes_[size_t(end)].empty.push_back(loop);
        const int to = add_node();
        nodes_[size_t(loop)].empty.push_back(to);
        return to;
      }
      const int to = add_node();
      for (int i = e.least; i < e.most; ++i) {
        nodes_[size_t(from)].empty.push_back(to);
        from = compile(part, from);
      }
      nodes_[size_t(from)].empty.push_back(to);
      return to;
    }
    case Expression::kRule: {
      const int to = add_node();
      nodes_[size_t(from)].calls.emplace_back(e.rule, to);
      return to;
    }
  }
  return from;
}

namespace {

std::string utf8(uint32_t c) {
  if (c < 0x80) return {char(c)};
  if (c < 0x800) return {char(0xC0 | (c >> 6)), char(0x80 | (c & 0x3F))};
  if (c < 0x10000)
    return {char(0xE0 | (c >> 12)), char(0x80 | ((c >> 6) & 0x3F)), char(0x80 | (c & 0x3F))};
  return {char(0xF0 | (c >> 18)), char(0x80 | ((c >> 12) & 0x3F)), char(0x80 | ((c >> 6) & 0x3F)),
          char(0x80 | (c & 0x3F))};
}

using ByteRanges =
    std::vector<std::pair<uint8_t, uint8_t>>;  // a sequence of bytes, each in its range

// [first, last] of equal length in UTF-8, as sequences of byte ranges.
void split(const std::string& first, const std::string& last, std::vector<ByteRanges>& out,
           ByteRanges before = {}) {
  const size_t n = first.size();
  if (n == 0) {
    out.push_back(before);
    return;
  }
  const auto lead = [&](char low, char high) {
    ByteRanges r = before;
    r.emplace_back(uint8_t(low), uint8_t(high));
    return r;
  };
  const std::string lowest(n - 1, char(0x80)), highest(n - 1, char(0xBF));
  const std::string first_rest = first.substr(1), last_rest = last.substr(1);
  if (first[0] == last[0]) return split(first_rest, last_rest, out, lead(first[0], first[0]));
  uint8_t low = uint8_t(first[0]), high = uint8_t(last[0]);
  if (first_rest != lowest) {
    split(first_rest, highest, out, lead(char(low), char(low)));
    ++low;
  }
  if (last_rest != highest) {
    split(lowest, last_rest, out, lead(char(high), char(high)));
    --high;
  }
  if (low <= high) split(lowest, highest, out, lead(char(low), char(high)));
}

}  // namespace

int Grammar::compile_class(const CodePoints& ranges, int from) {
  const int to = add_node();
  // Where a code point's length in bytes changes.
  constexpr uint32_t kEnds[] = {0x7F, 0x7FF, 0xFFFF, kLastCodePoint};
  for (const auto& [first, last] : ranges) {
    uint32_t low = first;
    for (const uint32_t end : kEnds) {
      if (low > last) break;
      if (low > end) continue;
      std::vector<ByteRanges> sequences;
      split(utf8(low), utf8(std::min(last, end)), sequences);
      for (const ByteRanges& bytes : sequences) {
        int at = from;
        for (size_t i = 0; i < bytes.size(); ++i) {
          const int next = i + 1 == bytes.size() ? to : add_node();
          nodes_[size_t(at)].bytes.push_back({bytes[i].first, bytes[i].second, next});
          at = next;
        }
      }
      low = end + 1;
    }
  }
  return to;
}

void Grammar::check_left_recursion(const GrammarRules& rules) {
  const size_t n = rules.bodies.size();
  std::vector<bool> nullable(n, false);
  std::vector<std::set<int>> first_calls(n);
  // Until nothing changes: what each rule reaches without a byte.
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t r = 0; r < n; ++r) {
      std::set<int> calls;
      bool empty = false;
      std::vector<int> open{rule_start_[r]};
      std::set<int> seen{rule_start_[r]};
      const auto reach = [&](int node) {
        work();
        if (seen.insert(node).second) open.push_back(node);
      };
      while (!open.empty()) {
        const Node& node = nodes_[size_t(open.back())];
        open.pop_back();
        empty |= node.end;
        for (const int to : node.empty) reach(to);
        for (const auto& [called, to] : node.calls) {
          calls.insert(called);
          if (nullable[size_t(called)]) reach(to);
        }
      }
      changed |= empty != nullable[r] || calls != first_calls[r];
      nullable[r] = empty;
      first_calls[r] = std::move(calls);
    }
  }
  // A rule that is reached again while it is open begins with itself.
  enum : uint8_t { kNew, kOpen, kDone };
  std::vector<uint8_t> state(n, kNew);
  for (size_t r = 0; r < n; ++r) {
    std::vector<std::pair<int, std::set<int>::const_iterator>> path;
    const auto enter = [&](int rule) {
      state[size_t(rule)] = kOpen;
      path.emplace_back(rule, first_calls[size_t(rule)].begin());
    };
    if (state[r] == kNew) enter(int(r));
    while (!path.empty()) {
      auto& [rule, next] = path.back();
      if (next == first_calls[size_t(rule)].end()) {
        state[size_t(rule)] = kDone;
        path.pop_back();
        continue;
      }
      const int called = *next++;
      if (state[size_t(called)] == kOpen) {
        throw Error(ErrorKind::kUsage,
                    "grammar: rule " + rules.names[size_t(called)] +
                        " begins with itself; put what repeats behind, as in a ::= b a*");
      }
      if (state[size_t(called)] == kNew) enter(called);
    }
  }
}

void Grammar::keep(size_t more) {
  if ((kept_ += int64_t(more)) > limits_.kept) {
    throw Error(ErrorKind::kLimit, "grammar: leads to too many places; make it simpler");
  }
}

bool Grammar::only_returns(int node) const {
  for (;;) {
    const Node& n = nodes_[size_t(node)];
    if (!n.bytes.empty() || !n.calls.empty()) return false;
    if (n.empty.empty()) return n.end;
    if (n.end || n.empty.size() > 1 || n.empty.front() == node) return false;
    node = n.empty.front();
  }
}

int Grammar::push(int node, int below) {
  if (const auto it = stack_of_.find({node, below}); it != stack_of_.end()) return it->second;
  keep(1);
  stacks_.push_back({node, below, stacks_[size_t(below)].depth + 1});
  return stack_of_[{node, below}] = int(stacks_.size()) - 1;
}

Grammar::State Grammar::settle(std::vector<Place> places) {
  std::set<Place> seen(places.begin(), places.end());
  std::vector<Place> waiting;
  bool accepts = false;
  while (!places.empty()) {
    const Place at = places.back();
    places.pop_back();
    if (int(seen.size()) > limits_.places) {
      throw Error(ErrorKind::kLimit, "grammar: is too ambiguous: a text may stand in more than " +
                                         std::to_string(limits_.places) + " places");
    }
    const auto reach = [&](int node, int stack) {
      if (seen.insert({node, stack}).second) places.push_back({node, stack});
    };
    const Node& node = nodes_[size_t(at.node)];
    if (!node.bytes.empty()) waiting.push_back(at);
    if (node.end) {
      if (at.stack == 0)
        accepts = true;
      else
        reach(stacks_[size_t(at.stack)].node, stacks_[size_t(at.stack)].below);
    }
    for (const int to : node.empty) reach(to, at.stack);
    for (const auto& [called, to] : node.calls) {
      if (only_returns(to))
        reach(rule_start_[size_t(called)], at.stack);
      else if (stacks_[size_t(at.stack)].depth < limits_.depth)
        reach(rule_start_[size_t(called)], push(to, at.stack));
    }
  }
  if (waiting.empty() && !accepts) return kNowhere;
  std::ranges::sort(waiting);
  const std::pair key(std::move(waiting), accepts);
  if (const auto it = set_of_.find(key); it != set_of_.end()) return it->second;
  if (int(sets_.size()) >= limits_.sets) {
    throw Error(ErrorKind::kLimit, "grammar: has led to more than " + std::to_string(limits_.sets) +
                                       " different places; make it simpler");
  }
  keep(key.first.size());
  auto set = std::make_unique<Set>();
  set->places = key.first;
  set->accepts = accepts;
  set->next.fill(kUnknown);
  sets_.push_back(std::move(set));
  set_of_.emplace(key, State(sets_.size()) - 1);
  return State(sets_.size()) - 1;
}

Grammar::State Grammar::step(State state, uint8_t byte) {
  const int32_t known = sets_[size_t(state)]->next[byte];
  if (known != kUnknown) return known;
  std::vector<Place> places;
  for (const Place& at : sets_[size_t(state)]->places) {
    for (const Edge& edge : nodes_[size_t(at.node)].bytes) {
      if (byte >= edge.first && byte <= edge.last) places.push_back({edge.to, at.stack});
    }
  }
  std::ranges::sort(places);
  places.erase(std::unique(places.begin(), places.end()), places.end());
  const State next = places.empty() ? kNowhere : settle(std::move(places));
  sets_[size_t(state)]->next[byte] = next;
  return next;
}

Grammar::State Grammar::advance(State state, std::string_view bytes) {
  for (const char c : bytes) {
    if (state == kNowhere) return kNowhere;
    state = step(state, uint8_t(c));
  }
  return state;
}

std::shared_ptr<const std::vector<uint64_t>> Grammar::allowed(State state) {
  if (sets_[size_t(state)]->allowed) return sets_[size_t(state)]->allowed;
  auto mask = std::make_shared<std::vector<uint64_t>>(size_t(tokens_->vocabulary() + 63) / 64, 0);
  const auto allow = [&](int32_t token) {
    (*mask)[size_t(token) / 64] |= uint64_t(1) << (token % 64);
  };
  bool any = false;
  struct Visit {
    int32_t node;
    State state;
  };
  std::vector<Visit> open{{tokens_->nodes_.front().child, state}};
  while (!open.empty()) {
    const Visit visit = open.back();
    open.pop_back();
    if (visit.node < 0) continue;
    const TokenTree::Node& node = tokens_->nodes_[size_t(visit.node)];
    open.push_back({node.sibling, visit.state});
    const State next = step(visit.state, node.byte);
    if (next == kNowhere) continue;
    for (int32_t token = node.tokens; token >= 0; token = tokens_->next_[size_t(token)]) {
      allow(token);
      any = true;
    }
    open.push_back({node.child, next});
  }
  // A place that no token leads out of ends the text, whole or not: there is no better answer.
  if (accepts(state) || !any) {
    for (const int32_t end : tokens_->ends()) allow(end);
  }
  sets_[size_t(state)]->allowed = mask;
  return mask;
}

}  // namespace tutti::text

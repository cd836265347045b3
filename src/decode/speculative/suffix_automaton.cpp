#include "decode/speculative/suffix_automaton.h"

#include <algorithm>

namespace tutti::decode::speculative {

namespace {

// Per token, how many of the suffixes that it repeats learn of their new place; the shorter ones
// keep an older one.
constexpr int kRefreshed = 8;
// Of one state, how many followers are looked at for other continuations.
constexpr int kFollowers = 32;

}  // namespace

SuffixAutomaton::SuffixAutomaton() { states_.emplace_back(); }

int* SuffixAutomaton::follow(int state, int32_t token) {
  const auto found = edge_of_.find(key(state, token));
  return found == edge_of_.end() ? nullptr : &edges_[size_t(found->second)].to;
}

void SuffixAutomaton::connect(int state, int32_t token, int to) {
  edge_of_[key(state, token)] = int(edges_.size());
  edges_.push_back({token, to, states_[size_t(state)].edges});
  states_[size_t(state)].edges = int(edges_.size()) - 1;
}

// `state` goes by `token` to `to`, whose substrings are longer than one more than `state`'s: those
// that fit become a state of their own.
int SuffixAutomaton::split(int state, int32_t token, int to) {
  const int copy = int(states_.size());
  State fresh = states_[size_t(to)];
  fresh.length = states_[size_t(state)].length + 1;
  fresh.edges = -1;
  states_.push_back(fresh);
  for (int e = states_[size_t(to)].edges; e >= 0; e = edges_[size_t(e)].next) {
    connect(copy, edges_[size_t(e)].token, edges_[size_t(e)].to);
  }
  for (int s = state; s >= 0; s = states_[size_t(s)].link) {
    int* next = follow(s, token);
    if (!next || *next != to) break;
    *next = copy;
  }
  states_[size_t(to)].link = copy;
  return copy;
}

void SuffixAutomaton::append(int32_t token) {
  // What the text ended with until now has been asked for: from now on this is its latest place.
  int s = states_[size_t(last_)].link;
  for (int i = 0; i < kRefreshed && s > 0; ++i, s = states_[size_t(s)].link) {
    states_[size_t(s)].end = int(text_.size());
  }
  text_.push_back(token);
  const int whole = int(states_.size());
  states_.emplace_back();
  states_.back().length = states_.back().end = int(text_.size());
  s = last_;
  while (s >= 0 && !follow(s, token)) {
    connect(s, token, whole);
    s = states_[size_t(s)].link;
  }
  int link = 0;
  if (s >= 0) {
    link = *follow(s, token);
    if (states_[size_t(link)].length != states_[size_t(s)].length + 1) link = split(s, token, link);
  }
  states_[size_t(whole)].link = link;
  last_ = whole;
}

std::vector<SuffixAutomaton::Match> SuffixAutomaton::matches(int least, int most, int count) const {
  std::vector<Match> found;
  const auto offer = [&](int length, int next) {
    const auto same = [&](const Match& m) { return text_[size_t(m.next)] == text_[size_t(next)]; };
    if (int(found.size()) < count && std::none_of(found.begin(), found.end(), same)) {
      found.push_back({length, next});
    }
  };
  for (int s = states_[size_t(last_)].link; s > 0 && int(found.size()) < count;
       s = states_[size_t(s)].link) {
    const State& state = states_[size_t(s)];
    if (state.length < least) break;
    if (most > 0 && states_[size_t(state.link)].length >= most)
      continue;  // all its substrings are longer
    const int length = most > 0 ? std::min(state.length, most) : state.length;
    offer(length, state.end);
    if (count == 1) break;
    std::vector<int> places;
    int looked = 0;
    for (int e = state.edges; e >= 0 && looked < kFollowers; e = edges_[size_t(e)].next, ++looked) {
      places.push_back(states_[size_t(edges_[size_t(e)].to)].end - 1);
    }
    std::sort(places.rbegin(), places.rend());
    for (const int place : places) offer(length, place);
  }
  return found;
}

}  // namespace tutti::decode::speculative

// What a grammar is made of before it is compiled: expressions over bytes and code points, and
// rules that name them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace tutti::text {

struct Expression;
using ExpressionPtr = std::shared_ptr<const Expression>;
using CodePoints = std::vector<std::pair<uint32_t, uint32_t>>;  // ranges, both ends included

struct Expression {
  enum Kind : uint8_t { kBytes, kClass, kSequence, kChoice, kRepeat, kRule } kind = kBytes;
  std::string bytes;                 // kBytes: as they are; empty: the empty text
  CodePoints ranges;                 // kClass: one code point of these, ascending, apart
  std::vector<ExpressionPtr> parts;  // kSequence, kChoice; kRepeat: one
  int least = 0, most = -1;          // kRepeat; -1: without bound
  int rule = -1;                     // kRule
};

inline constexpr uint32_t kLastCodePoint = 0x10FFFF;

ExpressionPtr literal(std::string bytes);
// Sorts and joins the ranges; surrogates are no characters.
ExpressionPtr any_of(CodePoints ranges);
// All code points but these; surrogates are none.
ExpressionPtr none_of(CodePoints ranges);
ExpressionPtr sequence(std::vector<ExpressionPtr> parts);
ExpressionPtr choice(std::vector<ExpressionPtr> parts);
ExpressionPtr repeat(ExpressionPtr part, int least, int most = -1);
ExpressionPtr optional(ExpressionPtr part);
ExpressionPtr rule(int index);

struct GrammarRules {
  std::vector<std::string> names;     // for errors
  std::vector<ExpressionPtr> bodies;  // of the rules; null: named, not defined
  int root = 0;

  // The index of a new rule.
  int add(std::string name, ExpressionPtr body = nullptr);
  // The rules of another grammar after these; the index of what was its root.
  int append(const GrammarRules& other);
};

}  // namespace tutti::text

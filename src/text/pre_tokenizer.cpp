#include "text/pre_tokenizer.h"

#include <utility>

#include "text/bert_text.h"
#include "text/byte_alphabet.h"
#include "text/unicode.h"

namespace tutti::text {
namespace {

struct Part {
  Range range;
  bool match;
};

// The matches of a piece and what stands between them, in order, none empty; offsets are the
// piece's.
std::vector<Part> parts_of(const Regex& regex, std::string_view piece, bool invert) {
  std::vector<Part> parts;
  RegexScan scan(regex, piece);
  size_t done = 0, from = 0;
  while (from <= piece.size()) {
    const std::optional<Range> found = scan.find(from);
    if (!found) break;
    if (found->size() == 0) {  // an empty match separates nothing: look further on
      if (found->begin >= piece.size()) break;
      from = found->begin + decode_utf8(piece, found->begin).length;
      continue;
    }
    if (found->begin > done) parts.push_back({{done, found->begin}, invert});
    parts.push_back({*found, !invert});
    done = from = found->end;
  }
  if (done < piece.size()) parts.push_back({{done, piece.size()}, invert});
  return parts;
}

// The ranges that remain of the parts.
std::vector<Range> arrange(const std::vector<Part>& parts, SplitBehavior behavior) {
  std::vector<Range> out;
  bool previous_match = false;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    switch (behavior) {
      case SplitBehavior::kIsolated:
        out.push_back(part.range);
        break;
      case SplitBehavior::kRemoved:
        if (!part.match) out.push_back(part.range);
        break;
      case SplitBehavior::kContiguous:
        if (!out.empty() && part.match == previous_match) {
          out.back().end = part.range.end;
        } else {
          out.push_back(part.range);
        }
        break;
      case SplitBehavior::kMergedWithPrevious:
        if (part.match && !previous_match && !out.empty()) {
          out.back().end = part.range.end;
        } else {
          out.push_back(part.range);
        }
        break;
      case SplitBehavior::kMergedWithNext:
        // A match opens a piece, and the text after it, up to the next match, belongs to it.
        if (!part.match && previous_match) {
          out.back().end = part.range.end;
        } else {
          out.push_back(part.range);
        }
        break;
    }
    previous_match = part.match;
  }
  return out;
}

}  // namespace

void PreTokenizer::add_split(std::string_view pattern, SplitBehavior behavior, bool invert) {
  Step step;
  step.regex = std::make_shared<const Regex>(pattern);
  step.behavior = behavior;
  step.invert = invert;
  step.byte_level = byte_level_;
  steps_.push_back(std::move(step));
}

void PreTokenizer::add_prefix_space() {
  Step step;
  step.kind = Step::Kind::kPrefixSpace;
  steps_.push_back(std::move(step));
}

void PreTokenizer::add_metaspace(std::string_view replacement, PrefixScheme prefix, bool split) {
  Step step;
  step.kind = Step::Kind::kMetaspace;
  step.replacement = replacement;
  step.prefix = prefix;
  steps_.push_back(std::move(step));
  if (split) add_split(escape_pattern(replacement), SplitBehavior::kMergedWithNext);
}

void PreTokenizer::add_bert_words() {
  Step step;
  step.kind = Step::Kind::kBertWords;
  steps_.push_back(std::move(step));
}

PreTokens PreTokenizer::split(std::string text, bool first) const {
  PreTokens tokens;
  tokens.text = std::move(text);
  for (size_t at = 0; at < tokens.text.size();) {
    size_t length = valid_utf8_prefix(tokens.text, at);
    const bool valid = length > 0;
    if (!valid) {
      while (at + length < tokens.text.size() && !decode_utf8(tokens.text, at + length).valid) {
        length += decode_utf8(tokens.text, at + length).length;
      }
    }
    tokens.pieces.push_back({{at, at + length}, valid});
    at += length;
  }
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kSplit:
        apply_split(step, tokens);
        break;
      case Step::Kind::kPrefixSpace:
        apply_prefix_space(tokens);
        break;
      case Step::Kind::kMetaspace:
        apply_metaspace(step, first, tokens);
        break;
      case Step::Kind::kBertWords:
        apply_bert_words(tokens);
        break;
    }
  }
  return tokens;
}

void PreTokenizer::apply_split(const Step& step, PreTokens& tokens) {
  std::vector<PreTokens::Piece> out;
  out.reserve(tokens.pieces.size() * 2);
  for (size_t i = 0; i < tokens.pieces.size(); ++i) {
    const PreTokens::Piece& piece = tokens.pieces[i];
    const size_t base = piece.range.begin;
    if (step.byte_level) {
      const std::string printable = printable_of_bytes(tokens.view(i));
      size_t at = 0, byte = 0;  // in `printable` and in the piece: a character there is a byte here
      for (const Range& range :
           arrange(parts_of(*step.regex, printable, step.invert), step.behavior)) {
        const auto bytes_until = [&](size_t end) {
          for (; at < end; ++byte) at += decode_utf8(printable, at).length;
          return base + byte;
        };
        const size_t begin = bytes_until(range.begin);
        out.push_back({{begin, bytes_until(range.end)}, piece.valid_utf8});
      }
      continue;
    }
    if (!piece.valid_utf8) {
      out.push_back(piece);
      continue;
    }
    for (const Range& range :
         arrange(parts_of(*step.regex, tokens.view(i), step.invert), step.behavior)) {
      out.push_back({{base + range.begin, base + range.end}, true});
    }
  }
  tokens.pieces = std::move(out);
}

void PreTokenizer::apply_prefix_space(PreTokens& tokens) {
  PreTokens out;
  out.text.reserve(tokens.text.size() + tokens.pieces.size());
  for (size_t i = 0; i < tokens.pieces.size(); ++i) {
    const size_t begin = out.text.size();
    const std::string_view piece = tokens.view(i);
    if (!piece.starts_with(' ')) out.text += ' ';
    out.text += piece;
    out.pieces.push_back({{begin, out.text.size()}, tokens.pieces[i].valid_utf8});
  }
  tokens = std::move(out);
}

void PreTokenizer::apply_bert_words(PreTokens& tokens) {
  std::vector<PreTokens::Piece> out;
  for (size_t i = 0; i < tokens.pieces.size(); ++i) {
    const PreTokens::Piece& piece = tokens.pieces[i];
    if (!piece.valid_utf8) {
      out.push_back(piece);
      continue;
    }
    size_t begin = piece.range.begin;  // of the word that is being read
    const auto end_word = [&](size_t at) {
      if (at > begin) out.push_back({{begin, at}, true});
    };
    for (size_t at = begin; at < piece.range.end;) {
      const Decoded c = decode_utf8(tokens.text, at);
      const size_t next = at + c.length;
      const bool mark = is_bert_punctuation(c.code_point);
      if (mark || is_white_space(c.code_point)) {
        end_word(at);
        if (mark) out.push_back({{at, next}, true});
        begin = next;
      }
      at = next;
    }
    end_word(piece.range.end);
  }
  tokens.pieces = std::move(out);
}

void PreTokenizer::apply_metaspace(const Step& step, bool first, PreTokens& tokens) {
  PreTokens out;
  out.text.reserve(tokens.text.size() * 2);
  for (size_t i = 0; i < tokens.pieces.size(); ++i) {
    const size_t begin = out.text.size();
    const std::string_view piece = tokens.view(i);
    const bool wanted = step.prefix == PrefixScheme::kAlways ||
                        (step.prefix == PrefixScheme::kFirst && first && i == 0);
    if (wanted && !piece.starts_with(' ') && !piece.starts_with(step.replacement)) {
      out.text += step.replacement;
    }
    for (const char c : piece) {
      if (c == ' ') {
        out.text += step.replacement;
      } else {
        out.text += c;
      }
    }
    out.pieces.push_back({{begin, out.text.size()}, tokens.pieces[i].valid_utf8});
  }
  tokens = std::move(out);
}

}  // namespace tutti::text

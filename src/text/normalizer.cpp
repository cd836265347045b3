#include "text/normalizer.h"

#include <utility>

#include "text/unicode.h"

namespace tutti::text {
namespace {

std::string replace_all(const Regex& regex, std::string_view text, std::string_view content) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t valid = valid_utf8_prefix(text, at);
    if (valid == 0) {
      out += text[at++];
      continue;
    }
    const std::string_view run = text.substr(at, valid);
    RegexScan scan(regex, run);
    size_t done = 0, from = 0;
    while (from <= run.size()) {
      const auto found = scan.find(from);
      if (!found) break;
      out.append(run.substr(done, found->begin - done));
      out.append(content);
      done = found->end;
      if (found->size() > 0) {
        from = found->end;
      } else if (found->end < run.size()) {
        from = found->end + decode_utf8(run, found->end).length;
      } else {
        break;
      }
    }
    out.append(run.substr(done));
    at += valid;
  }
  return out;
}

std::string_view strip(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    const Decoded c = decode_utf8(text, 0);
    if (!c.valid || !is_white_space(c.code_point)) break;
    text.remove_prefix(c.length);
  }
  while (right && !text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && (uint8_t(text[at]) & 0xC0) == 0x80) --at;
    const Decoded c = decode_utf8(text, at);
    if (!c.valid || at + c.length != text.size() || !is_white_space(c.code_point)) break;
    text = text.substr(0, at);
  }
  return text;
}

}  // namespace

void Normalizer::add_nfc() { steps_.emplace_back(); }

void Normalizer::add_prepend(std::string_view prefix) {
  Step step;
  step.kind = Step::Kind::kPrepend;
  step.content = prefix;
  steps_.push_back(std::move(step));
}

void Normalizer::add_replace(std::string_view pattern, std::string_view content) {
  Step step;
  step.kind = Step::Kind::kReplace;
  step.regex = std::make_shared<const Regex>(pattern);
  step.content = content;
  steps_.push_back(std::move(step));
}

void Normalizer::add_strip(bool left, bool right) {
  Step step;
  step.kind = Step::Kind::kStrip;
  step.left = left;
  step.right = right;
  steps_.push_back(std::move(step));
}

void Normalizer::add_bert(const BertNormalizer& bert) {
  Step step;
  step.kind = Step::Kind::kBert;
  step.bert = bert;
  steps_.push_back(std::move(step));
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kNfc:
        out = nfc(out);
        break;
      case Step::Kind::kPrepend:
        if (!out.empty()) out.insert(0, step.content);
        break;
      case Step::Kind::kReplace:
        out = replace_all(*step.regex, out, step.content);
        break;
      case Step::Kind::kStrip:
        out = std::string(strip(out, step.left, step.right));
        break;
      case Step::Kind::kBert:
        out = bert_normalized(out, step.bert);
        break;
    }
  }
  return out;
}

}  // namespace tutti::text

// What happens to text before it is cut into pieces.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/bert_text.h"
#include "text/regex.h"

namespace tutti::text {

// Unicode normalisation form C (UAX #15) with the data of Unicode 14; malformed bytes stay as they
// are.
std::string nfc(std::string_view text);
// The same for normalisation form D.
std::string nfd(std::string_view text);

class Normalizer {
 public:
  Normalizer() = default;
  void add_nfc();
  void add_prepend(std::string_view prefix);  // nothing is put before an empty text
  void add_replace(std::string_view pattern, std::string_view content);
  void add_strip(bool left, bool right);
  void add_bert(const BertNormalizer& bert);

  std::string apply(std::string_view text) const;
  bool empty() const { return steps_.empty(); }

  struct Step {
    enum class Kind { kNfc, kPrepend, kReplace, kStrip, kBert } kind = Kind::kNfc;
    std::string content;
    std::shared_ptr<const Regex> regex;
    bool left = false, right = false;
    BertNormalizer bert;
  };
  // In order, for those who write them down again.
  const std::vector<Step>& steps() const { return steps_; }

 private:
  std::vector<Step> steps_;
};

}  // namespace tutti::text

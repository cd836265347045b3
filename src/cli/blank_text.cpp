#include "cli/blank_text.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "formats/json_text.h"

namespace tutti::cli {
namespace {

constexpr int kMostBlanks = 1 << 16;

[[noreturn]] void refuse(const std::string& place, const std::string& what) {
  throw Error(ErrorKind::kUsage, place + ": " + what);
}

TextPart read_mark(std::string_view inside, const std::string& place) {
  TextPart part;
  if (inside.starts_with('=')) {
    part.kind = TextPart::kScored;
    part.text = inside.substr(1);
    if (part.text.empty())
      refuse(place, "[[=]] has no words; write those to be scored behind the sign");
    return part;
  }
  part.kind = TextPart::kBlank;
  if (inside == "mask") {
    part.count = 1;
    return part;
  }
  const std::string_view digits =
      inside.starts_with("mask:") ? inside.substr(5) : std::string_view();
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), part.count);
  const bool whole =
      error == std::errc() && end == digits.data() + digits.size() && !digits.empty();
  if (!whole || part.count < 1 || part.count > kMostBlanks) {
    refuse(place, "[[" + std::string(inside) +
                      "]] is no mark; write [[mask:N]] for N blank tokens, 1 to " +
                      std::to_string(kMostBlanks) + ", or [[=words]] for words to be scored");
  }
  return part;
}

}  // namespace

std::vector<TextPart> parse_parts(std::string_view text, const std::string& place) {
  std::vector<TextPart> parts;
  const auto given = [&](std::string_view t) {
    if (!t.empty()) parts.push_back({TextPart::kGiven, std::string(t), 0});
  };
  while (true) {
    const size_t open = text.find("[[");
    if (open == std::string_view::npos) break;
    const size_t close = text.find("]]", open);
    if (close == std::string_view::npos)
      refuse(place, "a mark [[ is not closed; write ]] behind it");
    given(text.substr(0, open));
    parts.push_back(read_mark(text.substr(open + 2, close - open - 2), place));
    text.remove_prefix(close + 2);
  }
  given(text);
  if (parts.empty()) refuse(place, "the text is empty");
  return parts;
}

decode::anyorder::InfillTask task_of(const std::vector<TextPart>& parts,
                                     const text::Tokenizer& tokenizer) {
  decode::anyorder::InfillTask task;
  for (const TextPart& part : parts) {
    if (part.kind == TextPart::kBlank) {
      for (int i = 0; i < part.count; ++i) {
        task.order.push_back(int(task.tokens.size()));
        task.tokens.push_back(decode::anyorder::kBlank);
      }
      continue;
    }
    text::EncodeOptions options;
    options.continues = !task.tokens.empty();
    const std::vector<int32_t> ids = tokenizer.encode(part.text, options);
    const bool unknown =
        tokenizer.unknown() >= 0 && std::ranges::count(ids, tokenizer.unknown()) > 0;
    if (ids.empty() || unknown) {
      throw Error(ErrorKind::kUsage,
                  "text: \"" + part.text + "\" " +
                      (unknown ? "has a character that the model has no token for; leave it out"
                               : "is no token; join it with its neighbours"));
    }
    for (const int32_t id : ids) {
      if (part.kind == TextPart::kScored) task.order.push_back(int(task.tokens.size()));
      task.tokens.push_back(id);
    }
  }
  return task;
}

decode::anyorder::InfillTask parse_task(const std::string& text, const std::string& place) {
  const nlohmann::json value = formats::parse_json(text, place);
  const auto list = [&](const char* key, bool blanks) {
    std::vector<int32_t> out;
    if (!value.is_object() || !value.contains(key) || !value[key].is_array()) {
      refuse(place, std::string("has no list \"") + key + "\"");
    }
    for (const auto& item : value[key]) {
      const bool blank = blanks && item.is_null();
      if (!blank && (!item.is_number_integer() || item < 0 || item > INT32_MAX)) {
        refuse(place, std::string("\"") + key + "\" holds " + item.dump() + ", which is no " +
                          (blanks ? "token; null is a blank" : "position"));
      }
      out.push_back(blank ? decode::anyorder::kBlank : item.get<int32_t>());
    }
    return out;
  };
  decode::anyorder::InfillTask task;
  task.tokens = list("tokens", true);
  if (value.contains("order")) task.order = list("order", false);
  for (const auto& [key, ignored] : value.items()) {
    if (key != "tokens" && key != "order")
      refuse(place, "key \"" + key + "\" is unknown; known are tokens and order");
  }
  return task;
}

std::vector<int> order_by_name(const std::string& name, std::vector<int> positions, uint64_t seed) {
  if (name == "reversed") std::ranges::reverse(positions);
  if (name != "random") return positions;
  // The order of the blanks alone, so that a text and its score agree.
  const std::vector<int32_t> blanks(positions.size(), decode::anyorder::kBlank);
  std::vector<int> shuffled;
  for (const int i : decode::anyorder::random_order(blanks, seed))
    shuffled.push_back(positions[size_t(i)]);
  return shuffled;
}

}  // namespace tutti::cli

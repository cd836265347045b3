#include "text/hf_files.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace tutti::text {
namespace {

using Json =
    nlohmann::json;  // sorted: a vocabulary in the order of insertion takes a search per token

[[noreturn]] void unsupported(const TokenizerSpec& spec, const std::string& what) {
  throw Error(ErrorKind::kUnsupported,
              spec.name + ": the tokenizer " + what +
                  ", which is not written as tokenizer.json here; name a Hugging Face "
                  "folder that has one");
}

Json byte_level(bool regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", regex}};
}

Json normalizer(const TokenizerSpec& spec) {
  Json steps = Json::array();
  for (const Normalizer::Step& step : spec.normalizer.steps()) {
    if (step.kind != Normalizer::Step::Kind::kNfc)
      unsupported(spec, "normalises its text other than to NFC");
    steps.push_back({{"type", "NFC"}});
  }
  if (steps.empty()) return nullptr;
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

Json pre_tokenizer(const TokenizerSpec& spec) {
  Json steps = Json::array();
  for (const PreTokenizer::Step& step : spec.pre_tokenizer.steps()) {
    if (step.kind != PreTokenizer::Step::Kind::kSplit ||
        step.behavior != SplitBehavior::kIsolated || step.invert || step.byte_level) {
      unsupported(spec, "cuts its text by other means than expressions");
    }
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", step.regex->pattern()}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back(byte_level(false));
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

Json vocabulary(const TokenizerSpec& spec) {
  Json vocab = Json::object();
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const Token& token = spec.tokens[id];
    if (token.text.empty() || token.type == TokenType::kUnused) continue;
    if (!vocab.emplace(token.text, id).second) {
      unsupported(spec, "has the text of token " + std::to_string(id) + " twice");
    }
  }
  return vocab;
}

Json added_tokens(const TokenizerSpec& spec) {
  Json list = Json::array();
  for (const AddedToken& t : spec.added) {
    list.push_back({{"id", t.id},
                    {"content", t.text},
                    {"single_word", t.single_word},
                    {"lstrip", t.lstrip},
                    {"rstrip", t.rstrip},
                    {"normalized", t.normalized},
                    {"special", t.special}});
  }
  return list;
}

// Null unless a begin or an end token goes with every text.
Json post_processor(const TokenizerSpec& spec) {
  Json single = Json::array(), pair = Json::array(), special = Json::object();
  const auto add_token = [&](int32_t id) {
    const std::string& text = spec.tokens[size_t(id)].text;
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
    special[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
  };
  if (spec.add_bos) add_token(spec.bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (spec.add_eos) add_token(spec.eos);
  if (special.empty()) return nullptr;
  pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", special}};
}

Json merges(const TokenizerSpec& spec) {
  Json list = Json::array();
  for (const auto& [left, right] : spec.merges) list.push_back({left, right});
  return list;
}

Json config(const TokenizerSpec& spec) {
  Json j{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const std::pair<const char*, int32_t> kSpecial[] = {{"bos_token", spec.bos},
                                                      {"eos_token", spec.eos},
                                                      {"unk_token", spec.unknown},
                                                      {"pad_token", spec.pad},
                                                      {"mask_token", spec.mask}};
  for (const auto& [key, id] : kSpecial) {
    if (id != kNoToken) j[key] = spec.tokens[size_t(id)].text;
  }
  j["add_bos_token"] = spec.add_bos;
  j["add_eos_token"] = spec.add_eos;
  if (!spec.chat_template.empty()) j["chat_template"] = spec.chat_template;
  return j;
}

}  // namespace

HfTokenizerFiles hf_tokenizer_files(const TokenizerSpec& spec) {
  if (spec.kind != TokenizerKind::kByteLevelBpe) unsupported(spec, "is no byte-level BPE");
  const Json tokenizer{{"version", "1.0"},
                       {"truncation", nullptr},
                       {"padding", nullptr},
                       {"added_tokens", added_tokens(spec)},
                       {"normalizer", normalizer(spec)},
                       {"pre_tokenizer", pre_tokenizer(spec)},
                       {"post_processor", post_processor(spec)},
                       {"decoder", byte_level(true)},
                       {"model",
                        {{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", nullptr},
                         {"continuing_subword_prefix", nullptr},
                         {"end_of_word_suffix", nullptr},
                         {"fuse_unk", false},
                         {"byte_fallback", false},
                         {"ignore_merges", spec.ignore_merges},
                         {"vocab", vocabulary(spec)},
                         {"merges", merges(spec)}}}};
  return {tokenizer.dump(1) + "\n", config(spec).dump(1) + "\n"};
}

}  // namespace tutti::text

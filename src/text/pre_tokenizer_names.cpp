// What the names in GGUF's `tokenizer.ggml.pre` stand for: the expressions of the published
// tokenizers.
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/pre_tokenizer.h"

namespace tutti::text {
namespace {

constexpr std::string_view kGpt2 = PreTokenizer::kGpt2Pattern;
constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N})"
    R"(| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kThreeDigits = R"(\p{N}{1,3})";
constexpr std::string_view kCjkKana = R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)";
constexpr std::string_view kDeepSeekV3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLineBreak = R"([\r\n])";
constexpr std::string_view kCjkHangul = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
// The cased letters that the deepseek-llm tokenizer lists one by one.
constexpr std::string_view kDeepSeekLetters =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386})"
    R"(\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F})"
    R"(\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA})"
    R"(\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15})"
    R"(\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B})"
    R"(\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4})"
    R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4})"
    R"(\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124})"
    R"(\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F})"
    R"(\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4})"
    R"(\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"
    R"(\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17})"
    R"(\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3})"
    R"(\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF})"
    R"(\x{1E900}-\x{1E943}]+)";
constexpr std::string_view kDeepSeekPunctuation =
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)";
constexpr std::string_view kFalconPunctuation = R"([\p{P}\$\+<=>\^~\|`]+)";
constexpr std::string_view kDefaultPunctuation = R"([\p{P}\$\+<=>\^~\|]+)";
constexpr std::string_view kThreeAsciiDigits = R"([0-9][0-9][0-9])";

constexpr std::string_view kOnlyGpt2[] = {kGpt2};
constexpr std::string_view kDigitsGpt2[] = {kDigit, kGpt2};
constexpr std::string_view kOnlyLlama3[] = {kLlama3};
constexpr std::string_view kOnlyQwen2[] = {kQwen2};
constexpr std::string_view kOnlyQwen35[] = {kQwen35};
constexpr std::string_view kDeepSeekV3Passes[] = {kThreeDigits, kCjkKana, kDeepSeekV3};
constexpr std::string_view kDeepSeekLlmPasses[] = {
    kLineBreak, kDeepSeekLetters, kDeepSeekPunctuation, R"(\s+$)", kCjkHangul, kDigit};
constexpr std::string_view kDeepSeekCoderPasses[] = {kLineBreak, R"(\s?\p{L}+)", R"(\s?\p{P}+)",
                                                     kCjkHangul, kDigit};
constexpr std::string_view kOnlyGpt4o[] = {kGpt4o};
constexpr std::string_view kOnlyTekken[] = {kTekken};
constexpr std::string_view kFalconPasses[] = {kFalconPunctuation, kGpt2, kThreeAsciiDigits};
constexpr std::string_view kDefaultPasses[] = {kDefaultPunctuation, kGpt2, R"(\p{N}+)",
                                               kThreeAsciiDigits};

struct Named {
  std::string_view name;
  std::span<const std::string_view> passes;
};

// Of names with equal passes the first is what a converter writes.
constexpr Named kNamed[] = {
    {"default", kDefaultPasses},
    {"gpt-2", kOnlyGpt2},
    {"gpt-neox", kOnlyGpt2},
    {"phi-2", kOnlyGpt2},
    {"mpt", kOnlyGpt2},
    {"olmo", kOnlyGpt2},
    {"roberta-bpe", kOnlyGpt2},
    {"modern-bert", kOnlyGpt2},
    {"smollm", kDigitsGpt2},
    {"starcoder", kDigitsGpt2},
    {"refact", kDigitsGpt2},
    {"command-r", kDigitsGpt2},
    {"codeshell", kDigitsGpt2},
    {"exaone", kDigitsGpt2},
    {"minerva-7b", kDigitsGpt2},
    {"llama-bpe", kOnlyLlama3},
    {"llama3", kOnlyLlama3},
    {"llama-v3", kOnlyLlama3},
    {"falcon3", kOnlyLlama3},
    {"smaug-bpe", kOnlyLlama3},
    {"dbrx", kOnlyLlama3},
    {"chatglm-bpe", kOnlyLlama3},
    {"glm4", kOnlyLlama3},
    {"qwen2", kOnlyQwen2},
    {"deepseek-r1-qwen", kOnlyQwen2},
    {"stablelm2", kOnlyQwen2},
    {"megrez", kOnlyQwen2},
    {"qwen35", kOnlyQwen35},
    {"deepseek-v3", kDeepSeekV3Passes},
    {"deepseek-llm", kDeepSeekLlmPasses},
    {"deepseek-coder", kDeepSeekCoderPasses},
    {"falcon", kFalconPasses},
    {"gpt-4o", kOnlyGpt4o},
    {"llama4", kOnlyGpt4o},
    {"tekken", kOnlyTekken},
};

const Named* find_named(std::string_view pre) {
  for (const Named& named : kNamed) {
    if (named.name == pre) return &named;
  }
  return nullptr;
}

}  // namespace

bool PreTokenizer::knows(std::string_view pre) { return find_named(pre) != nullptr; }

bool PreTokenizer::ignores_merges(std::string_view pre) {
  for (const std::string_view name : {"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken"}) {
    if (name == pre) return true;
  }
  return false;
}

std::optional<std::string_view> PreTokenizer::gguf_name(bool ignore_merges) const {
  for (const Named& named : kNamed) {
    if (ignores_merges(named.name) != ignore_merges || named.passes.size() != steps_.size())
      continue;
    bool same = true;
    for (size_t i = 0; i < steps_.size(); ++i) {
      const Step& step = steps_[i];
      same = same && step.kind == Step::Kind::kSplit && !step.invert &&
             step.behavior == SplitBehavior::kIsolated && step.regex->pattern() == named.passes[i];
    }
    if (same) return named.name;
  }
  return std::nullopt;
}

PreTokenizer PreTokenizer::named(std::string_view pre) {
  const Named* named = find_named(pre);
  if (named == nullptr) {
    throw Error(ErrorKind::kUnsupported, "tokenizer.ggml.pre: the pre-tokenizer \"" +
                                             std::string(pre) +
                                             "\" is not known; use a model of a known family");
  }
  PreTokenizer result;
  for (const std::string_view pattern : named->passes) {
    result.add_split(pattern, SplitBehavior::kIsolated);
  }
  return result;
}

}  // namespace tutti::text

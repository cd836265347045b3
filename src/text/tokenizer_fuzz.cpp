// Any bytes as a vocabulary: of a GGUF file when they begin like one, else tokenizer.json, and
// behind the first byte 0x1E tokenizer_config.json. An Error, or a tokenizer that keeps its
// promises on texts it has not seen.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace {

using tutti::text::Tokenizer;

Tokenizer make(std::string_view bytes) {
  if (bytes.starts_with("GGUF")) {
    return Tokenizer::from_gguf(
        tutti::formats::Gguf::parse(std::as_bytes(std::span(bytes)), "fuzz"));
  }
  if (bytes.starts_with("\n"))
    return Tokenizer::from_spiece(bytes, "", "fuzz");  // begins with a piece
  const size_t border = std::min(bytes.find('\x1e'), bytes.size());
  return Tokenizer::from_hf(bytes.substr(0, border),
                            border < bytes.size() ? bytes.substr(border + 1) : "", "fuzz");
}

void use(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> ids = tokenizer.encode(text, {true, true, true});
  tutti::text::StreamingDetokenizer stream(tokenizer, false);
  std::string pieces;
  for (const int32_t id : ids) {
    if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    pieces += stream.push(id);
  }
  pieces += stream.flush();
  const std::string whole = tokenizer.decode(ids);
  if (pieces != whole) std::abort();
  if (tutti::text::replace_malformed_utf8(whole) != whole) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const Tokenizer tokenizer = make(bytes);
    for (const int32_t id : tokenizer.end_ids()) {
      if (!tokenizer.is_end(id) || id >= tokenizer.vocab_size()) std::abort();
    }
    use(tokenizer,
        "Hello  world, it's 1234 \xF0\x9F\x98\x80 na\xC3\xAFve\n\n\tx <s></s><|im_end|>");
    use(tokenizer, std::string_view("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xFF\xC3\x00z", 40));
    use(tokenizer, bytes.substr(0, 64));
  } catch (const tutti::Error&) {
  }
  return 0;
}

// Any bytes as the body of a request for text, vectors or ranks: an ApiError, or a request that is
// within the limits.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "serve/api_error.h"
#include "serve/embeddings.h"
#include "serve/rerank.h"
#include "serve/text_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  using Kind = serve::TextRequest::Kind;
  serve::RequestLimits limits;
  limits.max_tokens = 1000;
  for (const Kind kind : {Kind::kChat, Kind::kCompletion}) {
    for (const bool strict : {false, true}) {
      limits.strict = strict;
      try {
        const serve::TextRequest r =
            serve::read_text_request(kind, {reinterpret_cast<const char*>(data), size}, limits);
        if (r.options.n < 1 || r.options.n > limits.choices ||
            r.options.max_tokens > limits.max_tokens)
          std::abort();
        if (r.options.stop.size() > size_t(limits.stop_strings) || (strict && !r.unknown.empty()))
          std::abort();
        if (r.tools.forced() && (r.tools.functions.empty() || r.grammar)) std::abort();
        if (kind == Kind::kChat ? !r.messages.is_array() : r.prompts.empty()) std::abort();
        engine::validate(r.options.sampling, 1 << 30);
      } catch (const serve::ApiError& e) {
        if (e.status < 400 || e.status > 501) std::abort();
        serve::error_body(e);
      } catch (const Error&) {
      }
    }
  }
  try {
    const serve::EmbeddingRequest r =
        serve::read_embedding_request({reinterpret_cast<const char*>(data), size}, limits);
    if (r.inputs.empty() || r.inputs.size() > size_t(limits.inputs)) std::abort();
  } catch (const serve::ApiError& e) {
    if (e.status != 400) std::abort();
  }
  try {
    const serve::RerankRequest r =
        serve::read_rerank_request({reinterpret_cast<const char*>(data), size}, limits);
    if (r.documents.empty() || r.documents.size() > size_t(limits.documents) || r.top_n < 0)
      std::abort();
  } catch (const serve::ApiError& e) {
    if (e.status != 400 && e.status != 501) std::abort();
  }
  return 0;
}

// For tests: a tokenizer of 96 tokens for the tiny model, and ways to run requests on it. Single
// bytes are tokens, so characters are split over tokens all the time.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "decode/generation.h"
#include "engine/tiny_model.h"

namespace tutti::decode {

inline constexpr int kTinyVocab = 96;
inline constexpr int32_t kTinyEos = 2, kTinyTurnEnd = 3, kFirstByte = 4, kFirstLetter = 36;

// 0 <unk>, 1 <s>, 2 </s>, 3 <|im_end|>, 4..35 bytes of UTF-8 beyond ASCII, 36..61 a..z, 62..95
// pairs of letters.
inline text::Tokenizer tiny_tokenizer() {
  text::TokenizerSpec spec;
  spec.name = "tiny";
  spec.family = "spm";
  spec.kind = text::TokenizerKind::kSentencePieceBpe;
  using text::TokenType;
  spec.tokens = {{"<unk>", 0, TokenType::kUnknown},
                 {"<s>", 0, TokenType::kControl},
                 {"</s>", 0, TokenType::kControl},
                 {"<|im_end|>", 0, TokenType::kControl}};
  constexpr int kBytes[32] = {0xC2, 0xC3, 0xCE, 0xCF, 0xE2, 0xE3, 0xE4, 0xE5, 0xF0, 0x9F, 0x98,
                              0x80, 0x81, 0x82, 0x83, 0x84, 0x88, 0x90, 0x92, 0x93, 0x9D, 0xA0,
                              0xA5, 0xA7, 0xA8, 0xA9, 0xAC, 0xB1, 0xB2, 0xBC, 0xBD, 0xBF};
  for (const int byte : kBytes) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", byte);
    spec.tokens.push_back({text, 0, TokenType::kByte});
  }
  for (char c = 'a'; c <= 'z'; ++c)
    spec.tokens.push_back({std::string(1, c), 0, TokenType::kNormal});
  const std::string pairs = "thheineranreonatenndtiesorteofedisitalarsttontngsehaasouiolevecomede";
  for (size_t i = 0; i < pairs.size(); i += 2) {
    spec.tokens.push_back({pairs.substr(i, 2), -float(i), TokenType::kNormal});
  }
  spec.unknown = spec.substitute = 0;
  spec.bos = 1;
  spec.eos = kTinyEos;
  return text::Tokenizer(std::move(spec));
}

// Prompt number `stream`: n ordinary tokens.
inline std::vector<int32_t> tiny_prompt(uint32_t stream, int n) {
  DrawKey key;
  key.purpose = Purpose::kTest;
  key.path = stream;
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i) {
    tokens.push_back(kFirstByte +
                     int32_t(draw_word(key, uint32_t(i)) % uint32_t(kTinyVocab - kFirstByte)));
  }
  return tokens;
}

// One request and what became of it.
struct Outcome {
  std::vector<Completion> completions;
  std::vector<Piece> pieces;
  engine::RequestStatistics statistics;
  std::exception_ptr error;
};

struct TinyWorld {
  TinyWorld() : TinyWorld(engine::EngineOptions{}) {}
  explicit TinyWorld(engine::EngineOptions options, const std::string& architecture = "qwen3")
      : tiny(engine::tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactQ8, 1, 0,
                                architecture)),
        tokenizer(tiny_tokenizer()),
        engine(tiny.model, tiny.pool, with_pages(options)) {}

  static engine::EngineOptions with_pages(engine::EngineOptions options) {
    if (options.pages == 0) options.pages = 1024;
    options.prefix_cache = false;  // rows are counted
    return options;
  }

  struct Job {
    std::vector<int32_t> prompt;
    GenerationOptions options;
    std::function<void(const Piece&, engine::Request&)> sink;
    Job(std::vector<int32_t> p, GenerationOptions o)
        : prompt(std::move(p)), options(std::move(o)) {}
  };

  // All jobs side by side.
  std::vector<Outcome> run(const std::vector<Job>& jobs) {
    std::vector<Outcome> outcomes(jobs.size());
    std::vector<std::shared_ptr<engine::Request>> requests;
    for (size_t i = 0; i < jobs.size(); ++i) {
      requests.push_back(engine.new_request());
      engine.spawn(
          requests[i],
          [this, &job = jobs[i], &out = outcomes[i], request = requests[i]]() -> Task<void> {
            PieceSink sink = [&job, &out, &request](const Piece& piece) {
              out.pieces.push_back(piece);
              if (job.sink) job.sink(piece, *request);
            };
            out.completions = co_await generate(engine, tokenizer, request, job.prompt, job.options,
                                                std::move(sink));
          },
          [&out = outcomes[i]](std::exception_ptr e) { out.error = e; });
    }
    engine.run();
    for (size_t i = 0; i < jobs.size(); ++i) outcomes[i].statistics = requests[i]->statistics;
    return outcomes;
  }

  // One job, whose error is thrown.
  Outcome run(std::vector<int32_t> prompt, GenerationOptions options) {
    Outcome out = std::move(run({Job(std::move(prompt), std::move(options))}).front());
    if (out.error) std::rethrow_exception(out.error);
    return out;
  }

  // The logits after a sequence of tokens, straight from the engine.
  std::vector<float> logits_after(const std::vector<int32_t>& tokens) {
    std::vector<float> logits;
    std::exception_ptr error;
    const auto request = engine.new_request();
    engine.spawn(
        request,
        [&]() -> Task<void> {
          engine::Context context(engine, request);
          engine::Want want;
          want.logits = true;
          engine::Answer answer =
              co_await engine.forward(context, engine::Rows::append(tokens, 0, want));
          logits = std::move(answer.rows.back().logits);
        },
        [&](std::exception_ptr e) { error = e; });
    engine.run();
    if (error) std::rethrow_exception(error);
    return logits;
  }

  engine::TinyModel tiny;
  text::Tokenizer tokenizer;
  engine::Engine engine;
};

}  // namespace tutti::decode

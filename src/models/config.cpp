#include "models/config.h"

#include <cmath>

#include "base/error.h"
#include "tensor/kv.h"

namespace tutti::models {
namespace {

class Check {
 public:
  explicit Check(const std::string& place) : place_(place) {}

  void range(const char* what, int64_t value, int64_t low, int64_t high) const {
    if (value >= low && value <= high) return;
    throw Error(ErrorKind::kBadFile, place_ + ": " + what + " is " + std::to_string(value) +
                                         ", not between " + std::to_string(low) + " and " +
                                         std::to_string(high) + "; fix or replace the model file");
  }
  void holds(bool condition, const char* what) const {
    if (condition) return;
    throw Error(ErrorKind::kBadFile, place_ + ": " + what + "; fix or replace the model file");
  }

 private:
  const std::string& place_;
};

void check_rope(const Check& check, const Rope& rope, int head_dim) {
  check.range("the number of rotated dimensions", int64_t(rope.inverse_frequency.size()) * 2, 2,
              head_dim);
  check.holds(rope.magnitude > 0 && std::isfinite(rope.magnitude),
              "the rotary magnitude is no positive number");
}

void check_groups(const Check& check, const Experts& e) {
  if (e.groups == 1 && e.used_groups == 1) return;
  check.range("the number of expert groups", e.groups, 1, e.count);
  check.range("the expert groups used per token", e.used_groups, 1, e.groups);
  check.holds(e.count % e.groups == 0, "the expert groups do not divide the experts");
  const int size = e.count / e.groups;
  check.holds(size >= 2,
              "an expert group has a single expert; groups are ranked by their two best");
  check.holds(e.used <= e.used_groups * size,
              "the used expert groups have fewer experts than a token uses");
}

// What only draft models have.
void check_draft(const Check& check, const Config& c) {
  check.range("the width of the target's embeddings", c.embedding_width, 0, 1 << 20);
  check.holds(c.embedding_width == 0 || !c.tied_head,
              "the head is tied to embeddings that the model does not have");
  if (c.head_tokens.empty()) return;
  check.holds(!c.tied_head, "a head of some tokens is tied to the embeddings of all");
  for (size_t i = 0; i < c.head_tokens.size(); ++i) {
    check.range("a token of the head", c.head_tokens[i], 0, int64_t(c.vocab) - 1);
    check.holds(i == 0 || c.head_tokens[i - 1] < c.head_tokens[i],
                "the tokens of the head do not ascend");
  }
}

}  // namespace

void check_config(const Config& c, const std::string& place) {
  const Check check(place);
  check.range("the hidden size", c.hidden, 1, 1 << 20);
  check.range("the number of layers", c.layers, 1, 4096);
  check.range("the number of heads", c.heads, 1, 8192);
  check.range("the number of key/value heads", c.kv_heads, 1, c.heads);
  check.holds(c.heads % c.kv_heads == 0, "the key/value heads do not divide the heads");
  check.range("the head dimension", c.head_dim, 1, 4096);
  if (c.head_dim % 16 != 0 || c.head_dim > tensor::kMaxHeadDim) {
    throw Error(ErrorKind::kUnsupported,
                place + ": the head dimension is " + std::to_string(c.head_dim) +
                    ", not a multiple of 16 up to " + std::to_string(tensor::kMaxHeadDim) +
                    "; no kernel runs it");
  }
  check.range("the vocabulary size", c.vocab, 1, 1 << 26);
  check.range("the mask token", c.mask_token, -1, int64_t(c.vocab) - 1);
  if (c.attention == AttentionKind::kBlockCausal)
    check.range("the attention block", c.attention_block, 1, 1 << 20);
  check.range("the context length", c.context_length, 1, 1 << 30);
  check.holds(c.norm_eps > 0 && c.norm_eps <= 1, "the norm's epsilon is not between 0 and 1");
  check.holds(c.embedding_scale > 0 && std::isfinite(c.embedding_scale),
              "the embedding scale is no positive number");
  check.holds(c.attention_scale > 0 && std::isfinite(c.attention_scale),
              "the attention scale is no positive number");
  check.holds(c.attention_cap >= 0 && std::isfinite(c.attention_cap),
              "the attention cap is no positive number");
  check.holds(c.logit_cap >= 0 && std::isfinite(c.logit_cap),
              "the logit cap is no positive number");
  if (!c.relative && !c.is_encoder()) check_rope(check, c.rope, c.head_dim);
  check.range("the clamped distance", c.clamp_distance, 0, 1 << 20);
  if (c.relative || c.is_encoder()) check.range("the context length", c.context_length, 1, 1 << 16);
  if (c.is_encoder()) check.range("the number of token types", c.token_types, 1, 1 << 10);
  if (!c.sliding.empty()) {
    check.range("the number of sliding flags", int64_t(c.sliding.size()), c.layers, c.layers);
    check.range("the sliding window", c.window, 1, 1 << 30);
    if (!c.sliding_rope.inverse_frequency.empty()) check_rope(check, c.sliding_rope, c.head_dim);
  }
  bool any_dense = c.experts.count == 0;
  if (c.experts.count != 0) {
    check.range("the number of experts", c.experts.count, 1, 4096);
    check.range("the experts used per token", c.experts.used, 1, c.experts.count);
    check.range("an expert's width", c.experts.intermediate, 1, 1 << 24);
    check.range("the shared expert's width", c.experts.shared_intermediate, 0, 1 << 24);
    check_groups(check, c.experts);
    check.holds(c.experts.scale > 0 && std::isfinite(c.experts.scale),
                "the expert scale is no positive number");
    if (!c.sparse.empty()) {
      check.range("the number of expert flags", int64_t(c.sparse.size()), c.layers, c.layers);
      for (const bool sparse : c.sparse) any_dense = any_dense || !sparse;
    }
  }
  check_draft(check, c);
  check.range("the feed-forward width", c.intermediate, any_dense ? 1 : 0, 1 << 24);
}

void require_causal(const Config& config, const std::string& who) {
  if (config.attention == AttentionKind::kCausal) return;
  throw Error(ErrorKind::kUnsupported,
              who + ": reads a causal model, but this one (" + config.architecture +
                  (config.attention == AttentionKind::kPermutation ? ") predicts in any order"
                   : config.is_encoder()                           ? ") only reads"
                                                                   : ") fills in masked tokens") +
                  "; use a causal model");
}

void require_head(const Config& config, const std::string& who) {
  if (!config.is_encoder()) return;
  throw Error(ErrorKind::kUnsupported,
              who + ": the model (" + config.architecture +
                  ") is an encoder: it reads texts and writes none; use it for embeddings and "
                  "rerank, and another model here");
}

void require_mask_token(const Config& config, const std::string& who) {
  if (config.mask_token >= 0) return;
  throw Error(ErrorKind::kUnsupported,
              who +
                  ": the model has no mask token (config.json: mask_token_id; GGUF: "
                  "tokenizer.ggml.mask_token_id); export it again with one");
}

}  // namespace tutti::models

// What distinguishes one transformer of the family from another: sizes, norms, positions, experts.
// Filled from a GGUF file's metadata or from a Hugging Face config.json (checkpoint.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/kernels.h"

namespace tutti::models {

// kBidirectional and kBlockCausal fill in masks; kEncoder reads whole texts and writes none (BERT).
enum class AttentionKind : uint8_t {
  kCausal,
  kBidirectional,
  kBlockCausal,
  kPermutation,
  kEncoder
};

// How the states of an encoder's tokens become one vector: their mean, or that of the first token.
enum class Pooling : uint8_t { kMean, kFirst };

// Rotary embedding of one kind of layer: pair i of a position p turns by p * inverse_frequency[i];
// the cosine and sine are multiplied by `magnitude` (YaRN's attention factor; 1 otherwise).
// Scalings (linear, llama3, NTK, YaRN) are folded into the frequencies. Layout is always
// half-split, pairs (i, i + pairs): interleaved checkpoints get their Q/K rows permuted at load.
struct Rope {
  std::vector<float> inverse_frequency;  // pairs = rotated dimensions / 2, <= head_dim / 2
  float magnitude = 1.0f;
  std::vector<uint8_t> axis;  // per pair: which of (t, h, w) turns it; empty: t for all
};

struct Experts {
  int count = 0;  // 0: dense feed-forward
  int used = 0;   // per token
  int intermediate = 0;
  int shared_intermediate = 0;  // 0: no shared expert
  // Scores of the router's products. Layers may have a bias per expert (LayerWeights::router_bias)
  // that is added to the scores by which experts are chosen, and to the chosen weights only when
  // `bias_weighs`.
  enum class Score : uint8_t { kSoftmax, kSigmoid } score = Score::kSoftmax;
  bool bias_weighs = false;
  // Experts lie in `groups` equal runs. Only those of the `used_groups` runs whose two best
  // (biased) scores have the largest sums can be chosen.
  int groups = 1, used_groups = 1;
  bool normalise = false;  // chosen weights divided by their sum
  float scale = 1.0f;      // then multiplied by this
};

struct Config {
  std::string
      architecture;  // GGUF's name ("llama", "qwen3", "gemma3", ...), or "mistral", "mixtral"
  std::string name;  // the model's own name, for people
  int hidden = 0;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;  // a multiple of 16
  int intermediate = 0;
  int vocab = 0;
  int context_length = 0;
  float norm_eps = 1e-5f;
  tensor::Activation activation = tensor::Activation::kSilu;
  float embedding_scale = 1.0f;
  float attention_scale = 0.0f;  // head_dim^-0.5 unless the model says otherwise
  float attention_cap = 0.0f;    // > 0: soft cap of scores (Gemma-2)
  float logit_cap = 0.0f;        // > 0: soft cap of logits (Gemma-2)
  int window = 0;                // sliding layers see positions p with own - window < p
  std::vector<bool> sliding;     // per layer; empty: none slides
  Rope rope;                     // of full layers
  Rope sliding_rope;             // of sliding layers; empty: as full layers
  Experts experts;
  std::vector<bool>
      sparse;  // per layer: experts instead of the dense feed-forward; empty with count > 0: all
  bool tied_head = false;
  // A draft model's (docs/speculative.md). `embedding_width` > 0: it has no embeddings, but a map
  // [hidden, embedding_width] that those of its target go through. `head_tokens`: the token of each
  // row of its head, ascending, all others being impossible; empty: row i is token i.
  int embedding_width = 0;
  std::vector<int32_t> head_tokens;
  AttentionKind attention = AttentionKind::kCausal;
  // XLNet's positions: nothing is rotated, and the score of a row and a key has a term of the
  // distance between them (weights.h: relative). Positions lie in [0, context_length).
  bool relative = false;
  int clamp_distance = 0;       // > 0: what is farther counts as this far
  int attention_block = 0;      // of kBlockCausal
  bool shifted_logits = false;  // logit i - 1 predicts token i of a masked model
  int mask_token = -1;
  // Of kEncoder: positions and kinds of tokens (row segments) are learned vectors that are added to
  // the embeddings. Positions lie in [0, context_length), segments in [0, token_types).
  int token_types = 0;
  Pooling pooling = Pooling::kMean;

  bool is_encoder() const { return attention == AttentionKind::kEncoder; }
  int head_rows() const { return head_tokens.empty() ? vocab : int(head_tokens.size()); }
  bool is_sliding(int layer) const { return !sliding.empty() && sliding[size_t(layer)]; }
  bool is_sparse(int layer) const {
    return experts.count > 0 && (sparse.empty() || sparse[size_t(layer)]);
  }
  const Rope& rope_of(int layer) const {
    return is_sliding(layer) && !sliding_rope.inverse_frequency.empty() ? sliding_rope : rope;
  }
};

// Throws Error(kBadFile | kUnsupported) that starts with `place` and names the first value that no
// sound model has or that we cannot run: the sizes of a hostile file never reach an allocation.
void check_config(const Config& config, const std::string& place);

// For those who read a model from left to right: throws Error(kUnsupported) that starts with `who`
// when the model was trained to fill in masks.
void require_causal(const Config& config, const std::string& who);
// For those who write text or ask for logits: throws Error(kUnsupported) that starts with `who`
// when the model only reads.
void require_head(const Config& config, const std::string& who);
// For those who fill in masks: likewise, when the model does not say which token is one.
void require_mask_token(const Config& config, const std::string& who);

}  // namespace tutti::models

#include "models/model.h"

#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "models/bert.h"
#include "models/transformer.h"
#include "models/xlnet.h"

namespace tutti::models {

namespace {

std::shared_ptr<const Checkpoint> with_embeddings(std::shared_ptr<const Checkpoint> checkpoint) {
  if (checkpoint->config().embedding_width == 0) return checkpoint;
  throw Error(ErrorKind::kUnsupported,
              "model " + checkpoint->config().name +
                  ": has no embeddings of its own, it drafts with those of another model; name it "
                  "as --draft-model beside that one");
}

}  // namespace

Model::Model(std::shared_ptr<const Checkpoint> checkpoint, tensor::Arithmetic arithmetic,
             ComputePool& pool, const LoadProgress& progress, const PackCache* cache)
    : checkpoint_(with_embeddings(std::move(checkpoint))),
      arithmetic_(arithmetic),
      packed_(pack_weights(*checkpoint_, arithmetic, pool, progress, cache)) {
  if (config().relative)
    relative_ = std::make_unique<RelativeKeys>(config(), checkpoint_->weights(), pool);
}

namespace {

void add_config(Xxh64& hash, const Config& c) {
  const auto list = [&](const auto& values) {
    hash.add(uint64_t(values.size()));
    for (const auto value : values) hash.add(value);
  };
  const auto rope = [&](const Rope& r) {
    list(r.inverse_frequency);
    hash.add(r.magnitude);
    list(r.axis);
  };
  hash.add(std::as_bytes(std::span(c.architecture)));
  for (const int n : {c.hidden, c.layers, c.heads, c.kv_heads, c.head_dim, c.intermediate, c.vocab,
                      c.window, c.experts.count, c.experts.used, c.experts.intermediate,
                      c.experts.shared_intermediate, c.experts.groups, c.experts.used_groups,
                      c.attention_block, c.mask_token, c.clamp_distance, c.token_types}) {
    hash.add(n);
  }
  for (const float x : {c.norm_eps, c.embedding_scale, c.attention_scale, c.attention_cap,
                        c.logit_cap, c.experts.scale}) {
    hash.add(x);
  }
  hash.add(c.activation);
  hash.add(c.attention);
  hash.add(c.experts.normalise);
  hash.add(c.experts.score);
  hash.add(c.experts.bias_weighs);
  hash.add(c.tied_head);
  hash.add(c.shifted_logits);
  hash.add(c.relative);
  list(c.sliding);
  list(c.sparse);
  list(c.head_tokens);
  rope(c.rope);
  rope(c.sliding_rope);
}

}  // namespace

uint64_t Model::fingerprint() const {
  std::call_once(fingerprint_once_, [&] {
    Xxh64 hash;
    add_config(hash, config());
    hash.add(arithmetic_);
    hash.add(version_);
    hash.add(checkpoint_->weights().embedding.data);
    for (const auto& layer : checkpoint_->weights().layers) hash.add(layer.relative.data);
    // Sizes and presence of every tensor go in too, so that bytes cannot move from one to the next
    // unseen.
    convert_weights<Visits>(
        packed_.weights,
        [&](const tensor::Matrix& m) {
          hash.add(m.out());
          hash.add(m.in());
          if (m.empty()) return 0;
          hash.add(m.type());
          hash.add(std::span(m.tile(0), size_t(m.tiles()) * m.tile_bytes()));
          return 0;
        },
        [&](const RowVector& v) {
          hash.add(uint64_t(v.size()));
          hash.add(std::as_bytes(std::span(v)));
          return 0;
        });
    fingerprint_ = hash.digest();
  });
  return fingerprint_;
}

size_t Model::multiply_adds_per_row() const {
  const Config& c = config();
  const auto size = [](const tensor::Matrix& m) { return size_t(m.out()) * size_t(m.in()); };
  size_t sum =
      packed_.weights.head.empty() ? size(packed_.weights.embedding) : size(packed_.weights.head);
  for (const auto& l : packed_.weights.layers) {
    sum += size(l.q.weight) + size(l.k.weight) + size(l.v.weight) + size(l.o.weight);
    sum += size(l.gate.weight) + size(l.up.weight) + size(l.down.weight);
    if (l.router.empty()) continue;
    sum += size(l.router) + size(l.shared_gate) + size(l.shared_up) + size(l.shared_down);
    sum += size_t(c.experts.used) *
           (size(l.expert_gate[0]) + size(l.expert_up[0]) + size(l.expert_down[0]));
  }
  return sum;
}

tensor::KvLayout Model::kv_layout(tensor::KvType type) const {
  return {type, config().layers, config().kv_heads, config().head_dim};
}

void Model::forward(ComputePool& pool, const Batch& batch, const KvMemory& kv, RowWorkspace& space,
                    const LogitsConsumer& consume) const {
  space.prepare(config(), batch, pool.threads());
  const RowOps::Shared shared{
      tensor::kernels(), config(), batch,          kv, checkpoint_->weights().embedding,
      consume,           space,    relative_.get()};
  pool.run([&](Worker& worker) {
    RowOps ops(shared, worker);
    if (config().is_encoder()) {
      bert_forward(ops, config(), packed_.weights);
    } else if (config().relative) {
      xlnet_forward(ops, config(), packed_.weights);
    } else {
      models::forward(ops, config(), packed_.weights);
    }
  });
}

}  // namespace tutti::models

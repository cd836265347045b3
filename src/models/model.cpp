#include "models/model.h"

#include <utility>

#include "base/hash.h"
#include "models/transformer.h"

namespace tutti::models {
namespace {

// What convert_weights makes when only its visits matter.
struct Visits {
  using MatrixType [[maybe_unused]] = int;  // convert_weights uses them; g++ does not see it
  using VectorType [[maybe_unused]] = int;
  int embedding = 0, output_norm = 0, head = 0;
  std::vector<LayerWeights<int, int>> layers;
};

}  // namespace

Model::Model(std::shared_ptr<const Checkpoint> checkpoint, tensor::Arithmetic arithmetic,
             ComputePool& pool, const LoadProgress& progress)
    : checkpoint_(std::move(checkpoint)), arithmetic_(arithmetic) {
  const StoredWeights& stored = checkpoint_->weights();
  size_t total = 0, done = 0;
  const auto count = [&](const StoredTensor& t) {
    total += t.data.size();
    return 0;
  };
  if (progress) convert_weights<Visits>(stored, count, count);

  tensor::WeightMemory memory;
  const auto pack = [&](const StoredTensor& t) {
    if (t.empty()) return tensor::Matrix();
    // An untied embedding is only looked up, row by row, in the file's own blocks.
    const bool only_rows = &t == &stored.embedding && !stored.head.empty();
    if (only_rows) return tensor::Matrix();
    tensor::Matrix matrix = tensor::Matrix::allocate(t.type, t.rows, t.cols, arithmetic, &memory);
    pool.run([&](Worker& worker) {
      const auto [first, last] = worker.share(matrix.tiles());
      matrix.pack_tiles(t.type, t.data, first, last);
    });
    packed_bytes_ += matrix.bytes();
    done += t.data.size();
    if (progress && total > 0) progress(double(done) / double(total));
    return matrix;
  };
  weights_ = convert_weights<RowWeights>(stored, pack, [&](const StoredTensor& t) { return t.floats(); });
  // Routers decide by comparing sums: they compute in fp32 whatever their type or the class.
  for (size_t l = 0; l < stored.layers.size(); ++l) {
    const StoredTensor& router = stored.layers[l].router;
    if (router.empty() || weights_.layers[l].router.arithmetic() == tensor::Arithmetic::kExactF32)
      continue;
    weights_.layers[l].router = tensor::Matrix::pack(router.type, router.data, router.rows, router.cols,
                                                     tensor::Arithmetic::kExactF32);
  }
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
  for (const int n : {c.hidden, c.layers, c.heads, c.kv_heads, c.head_dim, c.intermediate, c.vocab, c.window,
                      c.experts.count, c.experts.used, c.experts.intermediate, c.experts.shared_intermediate,
                      c.attention_block, c.mask_token}) {
    hash.add(n);
  }
  for (const float x : {c.norm_eps, c.embedding_scale, c.attention_scale, c.attention_cap, c.logit_cap,
                        c.experts.scale}) {
    hash.add(x);
  }
  hash.add(c.activation);
  hash.add(c.attention);
  hash.add(c.experts.normalise);
  hash.add(c.tied_head);
  hash.add(c.shifted_logits);
  list(c.sliding);
  list(c.sparse);
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
    // Sizes and presence of every tensor go in too, so that bytes cannot move from one to the next unseen.
    convert_weights<Visits>(
        weights_,
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
  size_t sum = weights_.head.empty() ? size(weights_.embedding) : size(weights_.head);
  for (const auto& l : weights_.layers) {
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
  const RowOps::Shared shared{tensor::kernels(), config(), batch, kv, checkpoint_->weights().embedding,
                              consume, space};
  pool.run([&](Worker& worker) {
    RowOps ops(shared, worker);
    models::forward(ops, config(), weights_);
  });
}

}  // namespace tutti::models

#include "models/pack_weights.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "tensor/kernels.h"

namespace tutti::models {
namespace {

using tensor::Matrix;

constexpr size_t kHashed = size_t(256) << 10;  // stored bytes that a worker hashes at a time

// Where a matrix may begin.
size_t aligned(size_t at) { return (at + 63) / 64 * 64; }

// Every packed matrix of a model, in the order of convert_weights, and where it lies among all of
// them.
class PackPlan {
 public:
  PackPlan(const Checkpoint& checkpoint, tensor::Arithmetic arithmetic) : checkpoint_(checkpoint) {
    const StoredWeights& stored = checkpoint.weights();
    // Routers decide by comparing sums: they compute in fp32 whatever their type or the class.
    std::set<const StoredTensor*> routers, unpacked;
    for (const auto& layer : stored.layers) {
      routers.insert(&layer.router);
      unpacked.insert(&layer.relative);  // goes into RelativeKeys
    }
    // An untied embedding, or that of a network without a head, is only looked up, row by row, in
    // the file's own blocks.
    if (!stored.head.empty() || checkpoint.config().is_encoder())
      unpacked.insert(&stored.embedding);
    weights_ = convert_weights<RowWeights>(
        stored,
        [&](const StoredTensor& t) {
          if (t.empty() || unpacked.contains(&t)) return Matrix();
          const bool exact = routers.contains(&t);
          Matrix matrix = Matrix::shaped(t.type, t.rows, t.cols,
                                         exact ? tensor::Arithmetic::kExactF32 : arithmetic);
          items_.push_back({&t, bytes_});
          bytes_ = aligned(bytes_ + matrix.bytes());
          stored_bytes_ += t.data.size();
          return matrix;
        },
        [](const StoredTensor& t) { return t.floats(); });
    // Only now do they lie where they stay.
    size_t item = 0;
    convert_weights<Visits>(
        weights_,
        [&](Matrix& matrix) {
          if (!matrix.empty()) items_[item++].matrix = &matrix;
          return 0;
        },
        [](const RowVector&) { return 0; });
  }

  size_t bytes() const { return bytes_; }
  size_t stored_bytes() const { return stored_bytes_; }

  // Packs everything to bytes() bytes at `memory`.
  void pack(ComputePool& pool, const LoadProgress& progress, std::byte* memory) const {
    for_pieces(pool, progress, [&](size_t begin, size_t end, int) {
      pack_tiles(begin, end, false, memory + begin);
    });
  }

  // The same to `file`. A tile that lies in two pieces is packed for both, so that every write is a
  // whole piece.
  void pack(ComputePool& pool, const LoadProgress& progress, PackedFileWriter& file) const {
    size_t widest = 0;
    for (const Item& item : items_) widest = std::max(widest, item.matrix->tile_bytes());
    std::vector<tensor::AlignedBytes> buffers(size_t(pool.threads()));
    for_pieces(pool, progress, [&](size_t begin, size_t end, int worker) {
      tensor::AlignedBytes& buffer = buffers[size_t(worker)];
      // Room for what the first tile has before the piece, and the last one behind it.
      if (buffer.size() == 0) buffer = tensor::AlignedBytes(widest + kPackedPiece + widest, false);
      std::byte* piece = buffer.data() + widest;
      pack_tiles(begin, end, true, piece);
      file.write(begin, {piece, end - begin});
    });
  }

  uint64_t layout() const {
    Xxh64 hash;
    hash.add(tensor::packing_fingerprint());
    hash.add(tensor::kernels().isa);
    for (const Item& item : items_) {
      hash.add(item.stored->type);
      hash.add(item.matrix->type());
      hash.add(item.matrix->arithmetic());
      hash.add(item.matrix->out());
      hash.add(item.matrix->in());
    }
    return hash.digest();
  }

  // A hash of the stored bytes: the same for any number of workers.
  uint64_t content(ComputePool& pool) const {
    struct Piece {
      std::span<const std::byte> bytes;
      uint64_t hash = 0;
    };
    std::vector<Piece> pieces;
    for (const Item& item : items_) {
      for (auto rest = item.stored->data; !rest.empty();) {
        const size_t n = std::min(rest.size(), kHashed);
        pieces.push_back({rest.first(n)});
        rest = rest.subspan(n);
      }
    }
    std::atomic<size_t> next{0};
    pool.run([&](Worker&) {
      for (size_t i; (i = next.fetch_add(1)) < pieces.size();) {
        pieces[i].hash = xxh64(pieces[i].bytes);
        checkpoint_.forget(pieces[i].bytes);
      }
    });
    Xxh64 hash;
    for (const Piece& piece : pieces) hash.add(piece.hash);
    return hash.digest();
  }

  // The weights, their tiles at `memory`.
  RowWeights place(const std::shared_ptr<const std::byte>& memory) {
    for (const Item& item : items_) item.matrix->place({memory, memory.get() + item.at});
    return std::move(weights_);
  }

 private:
  struct Item {
    const StoredTensor* stored;
    size_t at;
    Matrix* matrix = nullptr;
  };

  // Calls work(begin, end, worker) for the pieces of [0, bytes()), on all workers.
  void for_pieces(ComputePool& pool, const LoadProgress& progress,
                  const std::function<void(size_t, size_t, int)>& work) const {
    std::atomic<size_t> next{0}, done{0};
    pool.run([&](Worker& worker) {
      for (size_t begin; (begin = next.fetch_add(kPackedPiece)) < bytes_;) {
        const size_t end = std::min(begin + kPackedPiece, bytes_);
        work(begin, end, worker.index());
        done += end - begin;
        // Worker 0 is the caller's thread.
        if (progress && worker.index() == 0) progress(double(done) / double(bytes_));
      }
    });
    if (progress) progress(1);
  }

  // The tiles that start in [begin, end), or, if `overlapping`, all that have bytes there; `to` is
  // where `begin` goes.
  void pack_tiles(size_t begin, size_t end, bool overlapping, std::byte* to) const {
    const auto after = std::upper_bound(items_.begin(), items_.end(), begin,
                                        [](size_t at, const Item& item) { return at < item.at; });
    for (auto item = after - 1; item != items_.end() && item->at < end; ++item) {
      const StoredTensor& t = *item->stored;
      const Matrix& matrix = *item->matrix;
      const size_t tile = matrix.tile_bytes();
      const size_t inside = begin > item->at ? begin - item->at : 0;
      const auto first =
          int(std::min((inside + (overlapping ? 0 : tile - 1)) / tile, size_t(matrix.tiles())));
      const auto last = int(std::min((end - item->at + tile - 1) / tile, size_t(matrix.tiles())));
      if (first < last) {
        // Before `to` when the tile began in the piece before.
        std::byte* tiles = to + (ptrdiff_t(item->at + size_t(first) * tile) - ptrdiff_t(begin));
        matrix.pack_tiles(t.type, t.data, first, last, tiles);
        const size_t rows = tensor::kTileOutputs * tensor::row_bytes(t.type, t.cols);
        const size_t from = size_t(first) * rows;
        checkpoint_.forget(
            t.data.subspan(from, std::min(size_t(last) * rows, t.data.size()) - from));
      }
      // What lies between this matrix and the next.
      const size_t ends = item->at + matrix.bytes();
      for (size_t at = std::max(ends, begin); at < std::min(aligned(ends), end); ++at) {
        to[at - begin] = std::byte{0};
      }
    }
  }

  const Checkpoint& checkpoint_;
  RowWeights weights_;
  std::vector<Item> items_;
  size_t bytes_ = 0, stored_bytes_ = 0;
};

// The packed weights by way of the cache; null when it cannot hold them.
std::shared_ptr<const std::byte> by_cache(const Checkpoint& checkpoint, const PackPlan& plan,
                                          ComputePool& pool, const LoadProgress& progress,
                                          const PackCache& cache, PackedWeights::From& from) {
  PackedKey key;
  key.layout = plan.layout();
  key.content = cache.content(checkpoint.identity(), [&] { return plan.content(pool); });
  from = PackedWeights::From::kCache;
  if (auto found = cache.find(key, plan.bytes(), pool)) return found;
  from = PackedWeights::From::kNewFile;
  return cache.add(key, plan.bytes(), pool,
                   [&](PackedFileWriter& file) { plan.pack(pool, progress, file); });
}

std::shared_ptr<const std::byte> in_memory(const PackPlan& plan, ComputePool& pool,
                                           const LoadProgress& progress) {
  auto memory = std::make_shared<tensor::AlignedBytes>(plan.bytes(), false);
  plan.pack(pool, progress, memory->data());
  return {memory, memory->data()};
}

}  // namespace

PackedWeights pack_weights(const Checkpoint& checkpoint, tensor::Arithmetic arithmetic,
                           ComputePool& pool, const LoadProgress& progress,
                           const PackCache* cache) {
  PackPlan plan(checkpoint, arithmetic);
  PackedWeights packed;
  packed.bytes = plan.bytes();
  std::shared_ptr<const std::byte> memory;
  if (cache && cache->wants(plan.bytes(), plan.stored_bytes())) {
    memory = by_cache(checkpoint, plan, pool, progress, *cache, packed.from);
  }
  if (!memory) {
    packed.from = PackedWeights::From::kMemory;
    memory = in_memory(plan, pool, progress);
  }
  packed.weights = plan.place(memory);
  checkpoint.forget_all();  // what the reading of vectors and the permuting of rows has mapped
  return packed;
}

}  // namespace tutti::models

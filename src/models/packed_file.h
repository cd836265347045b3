// Packed weights in a file, to be mapped instead of packed again. The program that reads it knows
// from the model what such a file must look like, so that nothing in it is parsed: sizes and the
// head are compared, checksums computed.
//   head   "TUTTIPAK", format, key, bytes of data, an XXH64 of each MiB of data; padded to whole
//   pages data   the tiles of all matrices in the order of convert_weights, each matrix 64-byte
//   aligned
// Checksums find accidents (a torn write, a bad disk), not forgers: who may write in the folder may
// change the weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "base/files.h"
#include "base/pool.h"

namespace tutti::models {

struct PackedKey {
  uint64_t layout = 0;   // a hash of all that decides where the bytes of weights lie
  uint64_t content = 0;  // a hash of the stored weights
  bool operator==(const PackedKey&) const = default;
};

// A file written in aligned pieces of this size is cached, by file systems that can, in huge pages,
// and mapped by them: kernels read it as fast as they read memory that asks for such pages.
inline constexpr size_t kPackedPiece = size_t(2) << 20;

// The `bytes` bytes of data in `file`, checked on the pool's workers. Throws Error(kBadFile) naming
// `place`.
std::span<const std::byte> packed_data(std::span<const std::byte> file, const PackedKey& key,
                                       size_t bytes, ComputePool& pool, const std::string& place);
// The same, mapped. Throws also Error(kNotFound | kSystem).
std::shared_ptr<const std::byte> map_packed(const std::filesystem::path& path, const PackedKey& key,
                                            size_t bytes, ComputePool& pool);

// Writes one. It has no name until it is whole.
class PackedFileWriter {
 public:
  // Throws Error(kSystem).
  PackedFileWriter(const std::filesystem::path& folder, const PackedKey& key, size_t bytes);
  // Part of the data, best a whole piece; any thread. What is never written is zeros. Throws
  // Error(kSystem).
  void write(size_t at, std::span<const std::byte> part);
  // Names the file, unless another process was first, and returns the data, mapped. Throws
  // Error(kSystem).
  std::shared_ptr<const std::byte> finish(const std::string& name, ComputePool& pool);

 private:
  PackedKey key_;
  size_t bytes_;
  UnnamedFile file_;
};

}  // namespace tutti::models

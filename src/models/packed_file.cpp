#include "models/packed_file.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/hash.h"

namespace tutti::models {
namespace {

constexpr uint64_t kFormat = 1;
constexpr size_t kSummed = size_t(1) << 20;  // bytes of data under one checksum

struct Head {
  char magic[8] = {'T', 'U', 'T', 'T', 'I', 'P', 'A', 'K'};
  uint64_t format = kFormat;
  uint64_t layout, content;
  uint64_t bytes;
};
static_assert(sizeof(Head) == 40, "no padding: the head is compared byte by byte");

Head head_of(const PackedKey& key, size_t bytes) {
  Head head;
  head.layout = key.layout;
  head.content = key.content;
  head.bytes = bytes;
  return head;
}

size_t pieces(size_t bytes) { return (bytes + kSummed - 1) / kSummed; }

size_t head_bytes(size_t bytes) {
  const size_t head = sizeof(Head) + pieces(bytes) * sizeof(uint64_t);
  return (head + kPackedPiece - 1) / kPackedPiece * kPackedPiece;
}

// Calls visit(piece, its checksum) for every piece, on all workers.
template <class Visit>
void for_checksums(std::span<const std::byte> data, ComputePool& pool, const Visit& visit) {
  const size_t count = pieces(data.size());
  std::atomic<size_t> next{
      0};  // the next piece: workers are not equally fast, and some faults are slow
  pool.run([&](Worker&) {
    for (size_t i; (i = next.fetch_add(1)) < count;) {
      visit(i, xxh64(data.subspan(i * kSummed, std::min(kSummed, data.size() - i * kSummed))));
    }
  });
}

// A part of a mapped file that keeps the map.
std::shared_ptr<const std::byte> kept(MappedFile&& file, size_t at) {
  auto map = std::make_shared<const MappedFile>(std::move(file));
  return {map, map->bytes().data() + at};
}

}  // namespace

std::span<const std::byte> packed_data(std::span<const std::byte> file, const PackedKey& key,
                                       size_t bytes, ComputePool& pool, const std::string& place) {
  const auto bad = [&](const std::string& what) {
    throw Error(ErrorKind::kBadFile, place + ": not these packed weights: " + what);
  };
  const size_t before = head_bytes(bytes);
  if (file.size() != before + bytes) {
    bad(std::to_string(file.size()) + " bytes instead of " + std::to_string(before + bytes));
  }
  const Head head = head_of(key, bytes);
  if (std::memcmp(file.data(), &head, sizeof(head)) != 0) bad("the head is another model's");
  const auto data = file.subspan(before);
  const std::byte* sums = file.data() + sizeof(Head);
  std::atomic<bool> sound{true};
  for_checksums(data, pool, [&](size_t piece, uint64_t sum) {
    if (std::memcmp(sums + piece * sizeof(sum), &sum, sizeof(sum)) != 0) sound = false;
  });
  if (!sound) bad("a checksum is wrong");
  return data;
}

std::shared_ptr<const std::byte> map_packed(const std::filesystem::path& path, const PackedKey& key,
                                            size_t bytes, ComputePool& pool) {
  MappedFile file(path);
  file.prefer_huge_pages();
  packed_data(file.bytes(), key, bytes, pool, path.string());
  return kept(std::move(file), head_bytes(bytes));
}

PackedFileWriter::PackedFileWriter(const std::filesystem::path& folder, const PackedKey& key,
                                   size_t bytes)
    : key_(key), bytes_(bytes), file_(folder, head_bytes(bytes) + bytes) {}

void PackedFileWriter::write(size_t at, std::span<const std::byte> part) {
  file_.write(head_bytes(bytes_) + at, part);
}

std::shared_ptr<const std::byte> PackedFileWriter::finish(const std::string& name,
                                                          ComputePool& pool) {
  MappedFile map = file_.map();
  std::vector<uint64_t> sums(pieces(bytes_));
  for_checksums(map.bytes().subspan(head_bytes(bytes_)), pool,
                [&](size_t piece, uint64_t sum) { sums[piece] = sum; });
  const Head head = head_of(key_, bytes_);
  file_.write(0, std::as_bytes(std::span(&head, 1)));
  file_.write(sizeof(head), std::as_bytes(std::span(sums)));
  file_.publish(name);
  return kept(std::move(map), head_bytes(bytes_));
}

}  // namespace tutti::models

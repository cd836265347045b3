#include "models/pack_cache.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <set>
#include <system_error>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "base/hash.h"

namespace tutti::models {
namespace {

namespace fs = std::filesystem;

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

std::string file_of(const PackedKey& key) {
  return hex(key.layout) + "-" + hex(key.content) + ".packed";
}

// The program too: another build may read the same file's weights differently (a permutation put
// right, say).
uint64_t with_program(uint64_t identity) {
  const FileStamp program = MappedFile("/proc/self/exe").stamp();
  Xxh64 hash;
  hash.add(identity);
  hash.add(program.device);
  hash.add(program.inode);
  hash.add(program.size);
  hash.add(program.modified);
  return hash.digest();
}

// What a .source file holds.
struct Source {
  uint64_t identity, content, checksum;
};

Source source_of(uint64_t identity, uint64_t content) {
  Source source{identity, content, 0};
  source.checksum = xxh64(std::as_bytes(std::span(&source, 1)).first(offsetof(Source, checksum)));
  return source;
}

std::optional<uint64_t> read_source(const fs::path& path, uint64_t identity) {
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  const MappedFile file(path);
  Source source;
  if (file.bytes().size() != sizeof(source)) return std::nullopt;
  std::memcpy(&source, file.bytes().data(), sizeof(source));
  const Source expected = source_of(identity, source.content);
  if (std::memcmp(&source, &expected, sizeof(source)) != 0) return std::nullopt;
  return source.content;
}

void write_source(const fs::path& folder, const std::string& name, const Source& source) {
  fs::remove(folder / name);
  UnnamedFile file(folder, sizeof(source));
  file.write(0, std::as_bytes(std::span(&source, 1)));
  file.publish(name);
}

}  // namespace

bool PackCache::wants(size_t packed, size_t stored) const {
  return packed >= options_.least && packed <= 2 * stored;
}

uint64_t PackCache::content(std::optional<uint64_t> identity,
                            const std::function<uint64_t()>& make) const {
  if (!identity) return make();
  const uint64_t mine = with_program(*identity);
  const std::string name = hex(mine) + ".source";
  try {
    if (const auto known = read_source(options_.folder / name, mine)) return *known;
  } catch (const Error& error) {
    note(error.what());
  }
  const uint64_t content = make();
  try {
    fs::create_directories(options_.folder);
    write_source(options_.folder, name, source_of(mine, content));
  } catch (const std::exception& error) {
    unwritable(error.what());
  }
  return content;
}

std::shared_ptr<const std::byte> PackCache::find(const PackedKey& key, size_t bytes,
                                                 ComputePool& pool) const {
  const fs::path path = options_.folder / file_of(key);
  std::error_code error;
  if (!fs::exists(path, error)) return nullptr;
  try {
    auto data = map_packed(path, key, bytes, pool);
    fs::last_write_time(path, fs::file_time_type::clock::now(), error);
    return data;
  } catch (const Error& refused) {
    note(std::string(refused.what()) + "; packed again");
    fs::remove(path, error);
    return nullptr;
  }
}

std::shared_ptr<const std::byte> PackCache::add(
    const PackedKey& key, size_t bytes, ComputePool& pool,
    const std::function<void(PackedFileWriter&)>& fill) const {
  try {
    fs::create_directories(options_.folder);
    // A cache is not worth a full disk.
    if (const auto space = fs::space(options_.folder); space.available / 2 < bytes) {
      unwritable(options_.folder.string() + ": has too little room for " +
                 std::to_string(bytes >> 20) + " MiB");
      return nullptr;
    }
    PackedFileWriter writer(options_.folder, key, bytes);
    fill(writer);
    auto data = writer.finish(file_of(key), pool);
    trim(file_of(key));
    return data;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kSystem && error.kind() != ErrorKind::kNotFound) throw;
    unwritable(error.what());
  } catch (const fs::filesystem_error& error) {
    unwritable(error.what());
  }
  return nullptr;
}

void PackCache::trim(const std::string& but) const {
  std::vector<std::tuple<fs::file_time_type, fs::path, uint64_t>> packed;
  std::vector<fs::path> sources;
  std::error_code error;
  for (fs::directory_iterator it(options_.folder, error), end; !error && it != end;
       it.increment(error)) {
    const fs::path& path = it->path();
    if (path.extension() == ".source") sources.push_back(path);
    if (path.extension() != ".packed" || path.filename() == but) continue;
    std::error_code gone;
    const auto used = fs::last_write_time(path, gone);
    const uint64_t bytes = fs::file_size(path, gone);
    if (!gone) packed.emplace_back(used, path, bytes);
  }
  std::sort(packed.rbegin(), packed.rend());  // the most recently used first
  uint64_t sum = fs::file_size(options_.folder / but, error);
  for (const auto& [used, path, bytes] : packed) {
    sum += bytes;
    if (sum <= options_.most) continue;
    fs::remove(path, error);
    sum -= bytes;
  }
  // Every build of the program leaves its own of these few bytes.
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(24 * 30);
  for (const fs::path& path : sources) {
    if (const auto made = fs::last_write_time(path, error); !error && made < old) {
      fs::remove(path, error);
    }
  }
}

}  // namespace tutti::models

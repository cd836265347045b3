// Files as the loaders and writers need them: read-only maps, and writes that are either whole or absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace tutti {

// A read-only memory map of a whole file. Throws Error(kNotFound | kSystem) naming the path.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  // Tells the kernel that the whole map is wanted soon, in order.
  void prefetch() const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::filesystem::path path_;
};

// The whole file as text. Throws Error(kNotFound | kLimit) when absent or longer than `limit` bytes.
std::string read_file(const std::filesystem::path& path, size_t limit = size_t(1) << 30);

// Writes a file so that a crash at any moment leaves either the old file or the new one: a temporary file
// beside it, fsync, rename. `write` receives a sink that appends bytes. Throws Error(kSystem).
using Sink = std::function<void(std::span<const std::byte>)>;
void write_file_atomically(const std::filesystem::path& path, const std::function<void(const Sink&)>& write);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace tutti

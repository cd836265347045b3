// Files as the loaders and writers need them: read-only maps, and writes that are either whole or
// absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace tutti {

// Which file it is and when it last changed, as the file system says: a copy, a replaced file and
// one that was written to have another stamp. Times in nanoseconds since 1970.
struct FileStamp {
  uint64_t device = 0, inode = 0, size = 0;
  int64_t modified = 0, changed = 0;  // contents; contents or attributes
  bool operator==(const FileStamp&) const = default;
};

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
  // Of the file when it was mapped.
  const FileStamp& stamp() const { return stamp_; }
  // Tells the kernel that the whole map is wanted soon, in order.
  void prefetch() const;
  // Asks for huge pages where the file system can cache the file in them; a hint.
  void prefer_huge_pages() const;
  // Takes the pages of `part`, which may lie anywhere, out of this process's memory as far as they
  // are this map's. The file's cached pages stay: reading them again costs a page fault.
  void forget(std::span<const std::byte> part) const;

 private:
  friend class UnnamedFile;
  void map(int fd);

  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  FileStamp stamp_;
  std::filesystem::path path_;
};

// A file in the making that has no name until it is whole: a process that is killed before leaves
// nothing behind.
class UnnamedFile {
 public:
  // In `folder`, for its owner alone. Throws Error(kNotFound | kSystem), also where the file system
  // has no such files (O_TMPFILE) or less room than `size`.
  UnnamedFile(std::filesystem::path folder, size_t size);
  ~UnnamedFile();
  UnnamedFile(const UnnamedFile&) = delete;
  UnnamedFile& operator=(const UnnamedFile&) = delete;

  // Any thread may write any part. Throws Error(kSystem).
  void write(size_t at, std::span<const std::byte> bytes);
  // Of what is written so far; outlives this object.
  MappedFile map() const;
  // Gives it the name `file` in its folder; false when there is such a file. Nothing is flushed to
  // the disk: after a power failure the contents may be wrong, so they need a checksum. Throws
  // Error(kSystem).
  bool publish(const std::string& file);

 private:
  std::filesystem::path folder_;
  int fd_;
};

// The whole file as text. Throws Error(kNotFound | kLimit) when absent or longer than `limit`
// bytes.
std::string read_file(const std::filesystem::path& path, size_t limit = size_t(1) << 30);

// Writes a file so that a crash at any moment leaves either the old file or the new one: a
// temporary file beside it, fsync, rename. `write` receives a sink that appends bytes. Throws
// Error(kSystem).
using Sink = std::function<void(std::span<const std::byte>)>;
void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(const Sink&)>& write);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

// Where the program keeps what it can make again: TUTTI_CACHE, else XDG_CACHE_HOME/tutti, else
// ~/.cache/tutti.
std::filesystem::path cache_folder();

}  // namespace tutti

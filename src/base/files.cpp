#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"

namespace tutti {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* action) {
  const int code = errno;
  throw Error(code == ENOENT ? ErrorKind::kNotFound : ErrorKind::kSystem,
              path.string() + ": cannot " + action + ": " + std::strerror(code));
}

// Closes a descriptor when the scope ends.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail(path, "open");
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) fail(path, "stat");
  if (!S_ISREG(info.st_mode)) {
    throw Error(ErrorKind::kBadFile, path.string() + ": is not a regular file");
  }
  size_ = size_t(info.st_size);
  if (size_ == 0) return;
  void* map = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (map == MAP_FAILED) fail(path, "map");
  data_ = static_cast<const std::byte*>(map);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      path_(std::move(other.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::prefetch() const {
  if (data_) ::madvise(const_cast<std::byte*>(data_), size_, MADV_WILLNEED);
}

std::string read_file(const std::filesystem::path& path, size_t limit) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  if (bytes.size() > limit) {
    throw Error(ErrorKind::kLimit, path.string() + ": is " + std::to_string(bytes.size()) +
                                       " bytes; at most " + std::to_string(limit) + " are read");
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(const Sink&)>& write) {
  const std::filesystem::path temporary = path.string() + ".tmp-" + std::to_string(::getpid());
  struct Remove {
    std::filesystem::path path;
    ~Remove() {
      if (!path.empty()) ::unlink(path.c_str());
    }
  } remove{temporary};
  {
    const Descriptor file{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    if (file.fd < 0) fail(temporary, "create");
    std::vector<std::byte> buffer;
    buffer.reserve(size_t(1) << 20);
    const auto write_all = [&](std::span<const std::byte> bytes) {
      while (!bytes.empty()) {
        const ssize_t n = ::write(file.fd, bytes.data(), bytes.size());
        if (n < 0) {
          if (errno == EINTR) continue;
          fail(temporary, "write");
        }
        bytes = bytes.subspan(size_t(n));
      }
    };
    write([&](std::span<const std::byte> bytes) {
      if (buffer.size() + bytes.size() > buffer.capacity()) {
        write_all(buffer);
        buffer.clear();
      }
      if (bytes.size() >= buffer.capacity()) {
        write_all(bytes);
      } else {
        buffer.insert(buffer.end(), bytes.begin(), bytes.end());
      }
    });
    write_all(buffer);
    if (::fsync(file.fd) != 0) fail(temporary, "flush");
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) fail(path, "replace");
  remove.path.clear();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, [&](const Sink& sink) { sink(std::as_bytes(std::span(text))); });
}

}  // namespace tutti

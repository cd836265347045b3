#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
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
  map(file.fd);
}

void MappedFile::map(int fd) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) fail(path_, "stat");
  if (!S_ISREG(info.st_mode)) {
    throw Error(ErrorKind::kBadFile, path_.string() + ": is not a regular file");
  }
  const auto nanoseconds = [](const timespec& t) {
    return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
  };
  stamp_ = {uint64_t(info.st_dev), uint64_t(info.st_ino), uint64_t(info.st_size),
            nanoseconds(info.st_mtim), nanoseconds(info.st_ctim)};
  size_ = size_t(info.st_size);
  if (size_ == 0) return;
  void* map = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  if (map == MAP_FAILED) fail(path_, "map");
  data_ = static_cast<const std::byte*>(map);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      stamp_(std::exchange(other.stamp_, {})),
      path_(std::move(other.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(stamp_, other.stamp_);
  std::swap(path_, other.path_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::prefetch() const {
  if (data_) ::madvise(const_cast<std::byte*>(data_), size_, MADV_WILLNEED);
}

void MappedFile::prefer_huge_pages() const {
  if (data_) ::madvise(const_cast<std::byte*>(data_), size_, MADV_HUGEPAGE);
}

void MappedFile::forget(std::span<const std::byte> part) const {
  const auto address = [](const std::byte* p) { return reinterpret_cast<uintptr_t>(p); };
  const uintptr_t page = uintptr_t(::sysconf(_SC_PAGESIZE));
  // Pages that the part shares with its neighbours stay.
  const uintptr_t first = std::max(address(part.data()), address(data_));
  const uintptr_t last = std::min(address(part.data()) + part.size(), address(data_) + size_);
  const uintptr_t from = (first + page - 1) / page * page, to = last / page * page;
  if (data_ && from < to) ::madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

UnnamedFile::UnnamedFile(std::filesystem::path folder, size_t size) : folder_(std::move(folder)) {
  Descriptor file{::open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
  if (file.fd < 0) fail(folder_, "make a file in it");
  if (::ftruncate(file.fd, off_t(size)) != 0) fail(folder_, "make room in it");
  // Where the file system can reserve the room, a full disk shows now.
  if (::fallocate(file.fd, 0, 0, off_t(size)) != 0 && errno != EOPNOTSUPP)
    fail(folder_, "make room in it");
  fd_ = std::exchange(file.fd, -1);
}

UnnamedFile::~UnnamedFile() { ::close(fd_); }

void UnnamedFile::write(size_t at, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), off_t(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(folder_, "write in it");
    at += size_t(n);
    bytes = bytes.subspan(size_t(n));
  }
}

MappedFile UnnamedFile::map() const {
  MappedFile file;
  file.path_ = folder_;
  file.map(fd_);
  return file;
}

bool UnnamedFile::publish(const std::string& file) {
  const std::filesystem::path path = folder_ / file;
  const std::string self = "/proc/self/fd/" + std::to_string(fd_);
  if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0) return true;
  if (errno != EEXIST) fail(path, "name the file");
  return false;
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
    const Descriptor file{
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
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

std::filesystem::path cache_folder() {
  const auto named = [](const char* variable) {
    const char* value = std::getenv(variable);
    return std::filesystem::path(value ? value : "");
  };
  if (const auto own = named("TUTTI_CACHE"); !own.empty()) return own;
  if (const auto xdg = named("XDG_CACHE_HOME"); !xdg.empty()) return xdg / "tutti";
  if (const auto home = named("HOME"); !home.empty()) return home / ".cache" / "tutti";
  return std::filesystem::temp_directory_path() / "tutti";
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, [&](const Sink& sink) { sink(std::as_bytes(std::span(text))); });
}

}  // namespace tutti

#include "base/files.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace tutti {
namespace {

// A folder of its own, removed at the end.
class Files : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tutti-files-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  int count() const { return int(std::distance(std::filesystem::directory_iterator(dir_), {})); }
  std::filesystem::path dir_;
};

template <class F>
ErrorKind kind_of(F f, const std::string& must_name) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(must_name), std::string::npos) << e.what();
    return e.kind();
  }
  ADD_FAILURE() << "no error";
  return ErrorKind::kUsage;
}

TEST_F(Files, MapsWhatWasWritten) {
  const auto path = dir_ / "a";
  write_file_atomically(path, "hello");
  MappedFile map(path);
  map.prefetch();
  EXPECT_EQ(map.path(), path);
  ASSERT_EQ(map.bytes().size(), 5u);
  EXPECT_EQ(std::memcmp(map.bytes().data(), "hello", 5), 0);
  MappedFile moved = std::move(map);
  EXPECT_EQ(map.bytes().size(), 0u);
  EXPECT_EQ(moved.bytes().size(), 5u);
  MappedFile assigned;
  assigned = std::move(moved);
  EXPECT_EQ(assigned.bytes().size(), 5u);
  write_file_atomically(path, "");
  EXPECT_EQ(assigned.bytes().size(), 5u);  // the old map keeps the old file
  EXPECT_EQ(MappedFile(path).bytes().size(), 0u);
  EXPECT_EQ(read_file(path), "");
}

TEST_F(Files, ErrorsNameTheFile) {
  EXPECT_EQ(kind_of([&] { MappedFile(dir_ / "none"); }, "none"), ErrorKind::kNotFound);
  EXPECT_EQ(kind_of([&] { read_file(dir_ / "none"); }, "none"), ErrorKind::kNotFound);
  EXPECT_EQ(kind_of([&] { MappedFile{dir_}; }, dir_.string()), ErrorKind::kBadFile);
  write_file_atomically(dir_ / "long", "12345");
  EXPECT_EQ(kind_of([&] { read_file(dir_ / "long", 4); }, "long"), ErrorKind::kLimit);
  EXPECT_EQ(read_file(dir_ / "long", 5), "12345");
  kind_of([&] { write_file_atomically(dir_ / "no" / "where", "x"); }, "where");
}

TEST_F(Files, LargeWritesInPiecesOfEverySize) {
  std::string text;
  for (int i = 0; i < 600000; ++i) text += char(i * 31 % 251);
  text += text;
  text += text;  // more than two buffers
  write_file_atomically(dir_ / "big", [&](const Sink& sink) {
    size_t at = 0;
    for (size_t piece = 1; at < text.size(); piece = piece * 3 + 1) {
      const size_t n = std::min(piece, text.size() - at);
      sink(std::as_bytes(std::span(text).subspan(at, n)));
      at += n;
    }
  });
  EXPECT_TRUE(read_file(dir_ / "big") == text);
  EXPECT_EQ(count(), 1);
}

TEST_F(Files, AnExceptionLeavesTheOldFileAndNothingElse) {
  write_file_atomically(dir_ / "a", "old");
  EXPECT_THROW(write_file_atomically(dir_ / "a",
                                     [](const Sink& sink) {
                                       sink(std::as_bytes(std::span("new", 3)));
                                       throw std::runtime_error("stop");
                                     }),
               std::runtime_error);
  EXPECT_EQ(read_file(dir_ / "a"), "old");
  EXPECT_EQ(count(), 1);
}

TEST_F(Files, KilledInTheMiddleLeavesTheOldFile) {
  const auto path = dir_ / "a";
  write_file_atomically(path, "old");
  for (const bool before_any_byte : {true, false}) {
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      static const std::vector<std::byte> mega(size_t(3) << 20);
      write_file_atomically(path, [&](const Sink& sink) {
        if (!before_any_byte) sink(mega);
        if (::write(ready[1], "x", 1) != 1) ::_exit(1);
        for (;;) ::pause();
      });
      ::_exit(0);
    }
    char c;
    ASSERT_EQ(::read(ready[0], &c, 1), 1);
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    ::close(ready[0]);
    ::close(ready[1]);
    EXPECT_EQ(read_file(path), "old");
  }
  write_file_atomically(path, "new");  // the left-over temporary is in nobody's way
  EXPECT_EQ(read_file(path), "new");
}

TEST_F(Files, StampsTellFilesApart) {
  write_file_atomically(dir_ / "a", "one");
  write_file_atomically(dir_ / "b", "one");
  const FileStamp a = MappedFile(dir_ / "a").stamp();
  EXPECT_EQ(MappedFile(dir_ / "a").stamp(), a);
  EXPECT_FALSE(MappedFile(dir_ / "b").stamp() == a);  // a copy
  EXPECT_EQ(a.size, 3u);
  EXPECT_GT(a.modified, 0);
  std::filesystem::last_write_time(
      dir_ / "a", std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  const FileStamp touched = MappedFile(dir_ / "a").stamp();
  EXPECT_LT(touched.modified, a.modified);
  EXPECT_GE(touched.changed, a.changed);
}

// KiB of files in this process's memory.
size_t resident_files() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssFile:")) return std::stoul(line.substr(8));
  }
  return 0;
}

TEST_F(Files, ForgottenPagesLeaveMemoryAndComeBack) {
  constexpr size_t kSize = size_t(32) << 20, kHalf = kSize / 2;
  write_file_atomically(dir_ / "a", std::string(kSize, 'x'));
  const MappedFile map(dir_ / "a");
  const auto count_x = [&] { return size_t(std::ranges::count(map.bytes(), std::byte{'x'})); };
  EXPECT_EQ(count_x(), kSize);
  const size_t all = resident_files();
  map.forget(map.bytes().subspan(kHalf + 100));  // no whole page more than that
  EXPECT_LE(resident_files(), all - kHalf / 1024 + 64);
  EXPECT_GE(resident_files(), all - kHalf / 1024);
  EXPECT_EQ(count_x(), kSize);
  std::vector<std::byte> other(kHalf, std::byte{7});
  map.forget(other);  // not of this map: nothing happens to it
  EXPECT_EQ(std::ranges::count(other, std::byte{7}), std::ptrdiff_t(kHalf));
  EXPECT_GE(resident_files(), all - 1024);
}

TEST_F(Files, UnnamedUntilPublished) {
  UnnamedFile file(dir_, 10);
  file.write(5, std::as_bytes(std::span("world", 5)));
  file.write(0, std::as_bytes(std::span("hello", 5)));
  EXPECT_EQ(count(), 0);
  const MappedFile map = file.map();
  ASSERT_EQ(map.bytes().size(), 10u);
  EXPECT_EQ(std::memcmp(map.bytes().data(), "helloworld", 10), 0);
  EXPECT_TRUE(file.publish("a"));
  EXPECT_EQ(read_file(dir_ / "a"), "helloworld");
  EXPECT_EQ(std::filesystem::status(dir_ / "a").permissions(), std::filesystem::perms(0600));
  EXPECT_FALSE(UnnamedFile(dir_, 3).publish("a"));  // who was first stays
  EXPECT_EQ(read_file(dir_ / "a"), "helloworld");
  EXPECT_EQ(count(), 1);
  EXPECT_EQ(kind_of([&] { UnnamedFile(dir_ / "a", 3); }, "a"), ErrorKind::kSystem);
  EXPECT_EQ(kind_of([&] { UnnamedFile(dir_ / "none", 3); }, "none"), ErrorKind::kNotFound);
  EXPECT_EQ(kind_of([&] { UnnamedFile(dir_, size_t(1) << 60); }, dir_.string()),
            ErrorKind::kSystem);
}

}  // namespace
}  // namespace tutti

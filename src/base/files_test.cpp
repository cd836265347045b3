#include "base/files.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

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

}  // namespace
}  // namespace tutti

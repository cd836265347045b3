#include "models/pack_cache.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include "models/crafted_checkpoint.h"
#include "models/pack_weights.h"

namespace tutti::models {
namespace {

namespace fs = std::filesystem;
using tensor::Arithmetic;
using tensor::Matrix;
using From = PackedWeights::From;

// Weights of several pieces (of 2 MiB), so that tiles lie across their borders.
const Checkpoint& large() {
  static const Checkpoint checkpoint = [] {
    DraftShape shape;
    shape.layers = 1;
    shape.hidden = 416;  // tiles of 26,624 bytes: no piece is a multiple of them
    shape.wide = 1000;
    shape.vocab = 1003;
    return draft("llama", shape).load();
  }();
  return checkpoint;
}

// The bytes of all packed matrices, one after the other.
std::vector<std::byte> bytes_of(const RowWeights& weights) {
  std::vector<std::byte> all;
  convert_weights<Visits>(
      weights,
      [&](const Matrix& m) {
        if (!m.empty()) all.insert(all.end(), m.tile(0), m.tile(0) + m.bytes());
        return 0;
      },
      [](const RowVector&) { return 0; });
  return all;
}

// The same, packed matrix by matrix.
std::vector<std::byte> packed_one_by_one(const Checkpoint& checkpoint, Arithmetic arithmetic) {
  const StoredWeights& stored = checkpoint.weights();
  std::vector<std::byte> all;
  const auto none = [](const StoredTensor&) { return 0; };
  convert_weights<Visits>(
      stored,
      [&](const StoredTensor& t) {
        const bool looked_up = &t == &stored.embedding && !stored.head.empty();
        if (t.empty() || looked_up) return 0;
        const bool router =
            std::ranges::any_of(stored.layers, [&](const auto& l) { return &l.router == &t; });
        const Matrix m = Matrix::pack(t.type, t.data, t.rows, t.cols,
                                      router ? Arithmetic::kExactF32 : arithmetic);
        all.insert(all.end(), m.tile(0), m.tile(0) + m.bytes());
        return 0;
      },
      none);
  return all;
}

class PackCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tutti-pack-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  PackCache::Options options() {
    PackCache::Options o;
    o.folder = folder_;
    o.least = 0;
    o.note = [this](const std::string& text) { notes_ += text + "\n"; };
    return o;
  }
  PackedWeights load(const Checkpoint& checkpoint, int threads = 2,
                     Arithmetic arithmetic = Arithmetic::kExactQ8) {
    ComputePool pool(threads);
    const PackCache cache(options());
    return pack_weights(checkpoint, arithmetic, pool, {}, &cache);
  }
  // The files of that kind in the folder.
  std::vector<fs::path> files(const std::string& extension = ".packed") const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().extension() == extension) found.push_back(entry.path());
    }
    return found;
  }
  size_t everything() const {
    return size_t(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  fs::path folder_;
  std::string notes_;
};

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

TEST_F(PackCacheTest, WeightsAreTheSameHoweverTheyCame) {
  const auto expected = packed_one_by_one(large(), Arithmetic::kExactQ8);
  ASSERT_GT(expected.size(), 3 * kPackedPiece);
  for (const int threads : {1, 3}) {
    ComputePool pool(threads);
    const PackedWeights plain = pack_weights(large(), Arithmetic::kExactQ8, pool, {}, nullptr);
    EXPECT_EQ(plain.from, From::kMemory);
    EXPECT_TRUE(bytes_of(plain.weights) == expected);
    const PackedWeights made = load(large(), threads);
    EXPECT_EQ(made.from, From::kNewFile);
    EXPECT_TRUE(bytes_of(made.weights) == expected);
    const PackedWeights found = load(large(), 4 - threads);  // another number than packed it
    EXPECT_EQ(found.from, From::kCache);
    EXPECT_TRUE(bytes_of(found.weights) == expected);
    ASSERT_EQ(files().size(), 1u);
    fs::remove(files().front());
  }
  EXPECT_EQ(notes_, "");
}

TEST_F(PackCacheTest, EveryTypeAndArchitecture) {
  DraftShape shape;
  shape.layers = 1;
  shape.hidden = shape.wide = shape.expert_wide = shape.shared_wide = 256;
  shape.head_dim = 64;
  for (const auto type : {tensor::Type::kF16, tensor::Type::kQ4_0, tensor::Type::kQ4_1,
                          tensor::Type::kQ5_0, tensor::Type::kQ5_1, tensor::Type::kQ8_0,
                          tensor::Type::kQ4_K, tensor::Type::kQ5_K, tensor::Type::kQ6_K}) {
    for (const char* architecture : {"llama", "gemma3", "qwen2moe"}) {
      shape.type = type;
      const Checkpoint checkpoint = draft(architecture, shape).load();
      const auto expected = packed_one_by_one(checkpoint, Arithmetic::kExactQ8);
      // The widened routers of quantised experts can make the whole too large to keep.
      const bool wanted = std::string(architecture) != "qwen2moe";
      for (const From from : {From::kNewFile, From::kCache}) {
        const PackedWeights packed = load(checkpoint);
        if (wanted) {
          EXPECT_EQ(packed.from, from) << architecture;
        }
        EXPECT_TRUE(bytes_of(packed.weights) == expected) << architecture;
      }
    }
  }
  EXPECT_EQ(notes_, "");
}

TEST_F(PackCacheTest, KeyedByContentsAndArithmetic) {
  DraftShape shape;
  shape.type = tensor::Type::kQ4_0;  // stays packed in either class
  const Draft a = draft("qwen3", shape);
  Draft b = a;
  b.add("blk.1.ffn_up.weight", {uint64_t(shape.hidden), uint64_t(shape.wide)}, shape.type);
  const Checkpoint first = a.load(), second = b.load();
  EXPECT_EQ(load(first).from, From::kNewFile);
  EXPECT_EQ(load(second).from, From::kNewFile);
  EXPECT_EQ(load(a.load()).from, From::kCache);  // the same bytes opened again
  EXPECT_EQ(files().size(), 2u);
  EXPECT_TRUE(bytes_of(load(second).weights) == packed_one_by_one(second, Arithmetic::kExactQ8));
}

TEST_F(PackCacheTest, ApproximateClasses) {
  DraftShape shape;
  shape.type = tensor::Type::kF32;
  const Checkpoint checkpoint = draft("qwen2moe", shape).load();
  for (const Arithmetic arithmetic : {Arithmetic::kBf16Dot, Arithmetic::kW8A8Row}) {
    for (const From from : {From::kNewFile, From::kCache}) {
      const PackedWeights packed = load(checkpoint, 2, arithmetic);
      EXPECT_EQ(packed.from, from);
      EXPECT_TRUE(bytes_of(packed.weights) == packed_one_by_one(checkpoint, arithmetic));
    }
  }
  EXPECT_EQ(files().size(), 2u);
}

TEST_F(PackCacheTest, WidenedWeightsAreNotKept) {
  DraftShape shape;
  shape.type = tensor::Type::kQ8_0;
  EXPECT_EQ(load(draft("qwen3", shape).load(), 2, Arithmetic::kExactF32).from, From::kMemory);
  EXPECT_EQ(everything(), 0u);
  PackCache::Options o = options();
  o.least = 1000;
  const PackCache cache(std::move(o));
  EXPECT_FALSE(cache.wants(999, 999));
  EXPECT_TRUE(cache.wants(1000, 1000));
  EXPECT_TRUE(cache.wants(2000, 1000));
  EXPECT_FALSE(cache.wants(2001, 1000));
}

// Truncated, lengthened, with any field or any piece of the data changed, or another model's:
// packed again.
TEST_F(PackCacheTest, WrongFilesAreRefusedAndReplaced) {
  const auto expected = packed_one_by_one(large(), Arithmetic::kExactQ8);
  load(large());
  const fs::path path = files().front();
  const std::string sound = read(path);
  const size_t data = sound.size() - expected.size();
  ASSERT_EQ(data % kPackedPiece, 0u);
  std::vector<std::pair<std::string, std::string>> wrong{
      {"empty", ""},
      {"one byte", sound.substr(0, 1)},
      {"head only", sound.substr(0, data)},
      {"one byte short", sound.substr(0, sound.size() - 1)},
      {"one byte long", sound + "x"},
      {"zeros", std::string(sound.size(), '\0')},
  };
  const auto flipped = [&](size_t at, int bit) {
    std::string bytes = sound;
    bytes[at] = char(bytes[at] ^ 1 << bit);
    wrong.emplace_back("byte " + std::to_string(at), bytes);
  };
  const size_t sums = (expected.size() + (1 << 20) - 1) >> 20;
  for (size_t at = 0; at < 40 + 8 * sums; at += 8) flipped(at, int(at / 8 % 8));
  for (size_t at = data; at < sound.size(); at += size_t(1) << 20)
    flipped(at + 12345 % (sound.size() - at), 3);
  flipped(sound.size() - 1, 7);
  for (const auto& [what, bytes] : wrong) {
    fs::remove(path);
    write(path, bytes);
    notes_.clear();
    const PackedWeights packed = load(large());
    EXPECT_EQ(packed.from, From::kNewFile) << what;
    EXPECT_NE(notes_.find(path.string()), std::string::npos) << what << ": " << notes_;
    EXPECT_TRUE(bytes_of(packed.weights) == expected) << what;
    EXPECT_TRUE(read(path) == sound) << what << ": what replaces it is not what was there";
  }
}

TEST_F(PackCacheTest, AnotherModelsFileUnderThisName) {
  const Draft a = draft("llama");
  Draft b = a;
  b.add("output_norm.weight", {64});  // a vector: packed files hold matrices alone
  b.add("token_embd.weight", {64, 40});
  const Checkpoint first = a.load(), second = b.load();
  load(first);
  const fs::path mine = files().front();
  fs::rename(mine, folder_ / "kept");
  load(second);
  fs::rename(files().front(), mine);
  const PackedWeights packed = load(first);
  EXPECT_EQ(packed.from, From::kNewFile);
  EXPECT_NE(notes_.find("another model"), std::string::npos) << notes_;
  EXPECT_TRUE(read(mine) == read(folder_ / "kept"));
}

TEST_F(PackCacheTest, ContentIsComputedOncePerIdentity) {
  const PackCache cache(options());
  int made = 0;
  const auto make = [&] { return uint64_t(++made); };
  EXPECT_EQ(cache.content(7, make), 1u);
  EXPECT_EQ(cache.content(7, make), 1u);
  EXPECT_EQ(cache.content(std::nullopt, make), 2u);
  ASSERT_EQ(files(".source").size(), 1u);
  const fs::path seven = files(".source").front();
  const std::string sound = read(seven);
  EXPECT_EQ(cache.content(8, make), 3u);
  const auto both = files(".source");
  ASSERT_EQ(both.size(), 2u);
  const fs::path eight = both[0] == seven ? both[1] : both[0];

  std::vector<std::string> wrong{"", sound.substr(0, sound.size() - 1), sound + "x", read(eight),
                                 std::string(sound.size(), '\xff')};
  for (size_t at = 0; at < sound.size(); ++at) {
    wrong.push_back(sound);
    wrong.back()[at] = char(wrong.back()[at] ^ 0x10);
  }
  for (const std::string& bytes : wrong) {
    fs::remove(seven);
    write(seven, bytes);
    const auto next = uint64_t(made + 1);
    EXPECT_EQ(cache.content(7, make), next);
    EXPECT_EQ(cache.content(7, make), next);
  }
}

// A file's identity changes with it, and is none while a change could go unseen.
TEST_F(PackCacheTest, IdentityFollowsTheFile) {
  const fs::path path = folder_ / "model.gguf";
  const auto write_model = [&](const Draft& d) {
    const auto gguf = d.build();
    formats::write_gguf(path, gguf->metadata(), gguf->tensors());
  };
  const Draft a = draft("qwen3");
  Draft b = a;
  b.add("blk.0.ffn_up.weight", {64, 96});
  EXPECT_EQ(a.load().identity(), std::nullopt);  // in memory
  write_model(a);
  EXPECT_EQ(Checkpoint::open(path).identity(), std::nullopt);  // just written
  std::this_thread::sleep_for(std::chrono::milliseconds(2100));
  const auto first = Checkpoint::open(path).identity();
  ASSERT_TRUE(first);
  EXPECT_EQ(Checkpoint::open(path).identity(), first);
  EXPECT_EQ(load(Checkpoint::open(path)).from, From::kNewFile);
  EXPECT_EQ(files(".source").size(), 1u);
  EXPECT_EQ(load(Checkpoint::open(path)).from, From::kCache);

  // The same size, other weights, and a time put back.
  const auto time = fs::last_write_time(path);
  write_model(b);
  fs::last_write_time(path, time);
  const PackedWeights changed = load(Checkpoint::open(path));
  EXPECT_EQ(changed.from, From::kNewFile);
  EXPECT_TRUE(bytes_of(changed.weights) == packed_one_by_one(b.load(), Arithmetic::kExactQ8));
}

TEST_F(PackCacheTest, FolderThatCannotHoldFiles) {
  write(folder_ / "file", "x");
  for (const char* name : {"file", "file/below"}) {
    PackCache::Options o = options();
    o.folder /= name;
    for (const bool say : {true, false}) {
      o.say_unwritable = say;
      notes_.clear();
      ComputePool pool(2);
      const PackCache cache(o);
      const Checkpoint checkpoint = draft("qwen3").load();
      const PackedWeights packed = pack_weights(checkpoint, Arithmetic::kExactQ8, pool, {}, &cache);
      EXPECT_EQ(packed.from, From::kMemory);
      EXPECT_EQ(notes_.empty(), !say) << notes_;
      EXPECT_TRUE(bytes_of(packed.weights) == packed_one_by_one(checkpoint, Arithmetic::kExactQ8));
    }
  }
}

TEST_F(PackCacheTest, TheLeastRecentlyUsedGo) {
  PackCache::Options o = options();
  std::vector<Checkpoint> checkpoints;
  ComputePool pool(1);
  Draft d = draft("qwen3");
  const auto load_at = [&](const Checkpoint& checkpoint, int hours_ago) {
    const auto before = files();
    const PackCache cache(o);
    const From from = pack_weights(checkpoint, Arithmetic::kExactQ8, pool, {}, &cache).from;
    for (const fs::path& path : files()) {
      if (std::ranges::find(before, path) != before.end()) continue;
      fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(hours_ago));
    }
    return from;
  };
  for (int i = 0; i < 3; ++i) {
    d.add("token_embd.weight", {64, 40});
    checkpoints.push_back(d.load());
    EXPECT_EQ(load_at(checkpoints.back(), 10 - i), From::kNewFile);
  }
  EXPECT_EQ(load_at(checkpoints[0], 0), From::kCache);  // used just now
  o.most = 3 * fs::file_size(files().front());          // three of them
  d.add("token_embd.weight", {64, 40});
  EXPECT_EQ(load_at(d.load(), 0), From::kNewFile);
  EXPECT_EQ(files().size(), 3u);
  EXPECT_EQ(load_at(checkpoints[0], 0), From::kCache);
  EXPECT_EQ(load_at(checkpoints[2], 0), From::kCache);
  o.most = 1;  // what is in use stays, whatever its size
  EXPECT_EQ(load_at(checkpoints[1], 0), From::kNewFile);
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(load_at(checkpoints[1], 0), From::kCache);
}

// Runs `work` in a process of its own; its result is the exit code.
template <class Work>
pid_t child(const Work& work) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    int code = 9;
    try {
      code = work();
    } catch (...) {
    }
    ::_exit(code);
  }
  return pid;
}

TEST_F(PackCacheTest, KilledWhileWritingLeavesNothing) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const PackedKey key{1, 2};
  const pid_t pid = child([&] {
    ComputePool pool(1);
    const PackCache cache(options());
    cache.add(key, 3 * kPackedPiece, pool, [&](PackedFileWriter& file) {
      file.write(0, std::vector<std::byte>(kPackedPiece));
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      for (;;) ::pause();
    });
    return 0;
  });
  char c;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  EXPECT_EQ(everything(), 0u);
  ASSERT_EQ(::kill(pid, SIGKILL), 0);
  int status;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(everything(), 0u);
  ::close(ready[0]);
  ::close(ready[1]);
}

// Killed at any moment: what is in the folder then is a whole file or nothing.
TEST_F(PackCacheTest, KilledAtAnyMoment) {
  const auto expected = packed_one_by_one(large(), Arithmetic::kExactQ8);
  load(large());
  const std::string sound = read(files().front());
  int whole = 0;
  for (int i = 0; i < 24; ++i) {
    for (const fs::path& path : files()) fs::remove(path);
    const pid_t pid = child([&] {
      load(large());
      return 0;
    });
    std::this_thread::sleep_for(std::chrono::microseconds(i * 1500));
    ::kill(pid, SIGKILL);
    int status;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    ASSERT_LE(everything(), 1u);
    if (everything() == 0) continue;
    ++whole;
    EXPECT_TRUE(read(files().front()) == sound);
  }
  std::printf("whole files at the kill: %d of 24\n", whole);
  const PackedWeights after = load(large());
  EXPECT_TRUE(bytes_of(after.weights) == expected);
  EXPECT_EQ(notes_, "");
}

TEST_F(PackCacheTest, ProcessesThatRace) {
  const auto expected = packed_one_by_one(large(), Arithmetic::kExactQ8);
  for (const bool wrong_first : {false, true}) {
    if (wrong_first) write(files().front(), "not packed weights");
    if (!wrong_first) {
      for (const fs::path& path : files()) fs::remove(path);
    }
    int start[2];
    ASSERT_EQ(::pipe(start), 0);
    std::vector<pid_t> pids;
    for (int i = 0; i < 4; ++i) {
      pids.push_back(child([&] {
        ::close(start[1]);
        char c;
        if (::read(start[0], &c, 1) != 0) return 2;  // until the parent closes its end
        return bytes_of(load(large()).weights) == expected ? 0 : 3;
      }));
    }
    ::close(start[0]);
    ::close(start[1]);
    for (const pid_t pid : pids) {
      int status;
      ASSERT_EQ(::waitpid(pid, &status, 0), pid);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
    EXPECT_EQ(everything(), 1u);
    notes_.clear();
    EXPECT_EQ(load(large()).from, From::kCache) << notes_;
  }
}

// KiB of this process's memory that maps of `path` hold.
size_t resident(const fs::path& path) {
  std::ifstream maps("/proc/self/smaps");
  size_t sum = 0;
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < 20 && line.find(' ') < 40 && std::isxdigit(line[0]) &&
        line.find(':') > 16) {
      inside = line.ends_with(path.string());
    }
    if (inside && line.starts_with("Rss:")) sum += std::stoul(line.substr(4));
  }
  return sum;
}

// Packed weights are the only copy: the model's file does not stay mapped in beside them.
TEST_F(PackCacheTest, OneCopyInMemory) {
  const fs::path path = folder_ / "model.gguf";
  DraftShape shape;
  shape.hidden = 512;
  shape.wide = 2048;
  const auto gguf = draft("qwen3", shape).build();
  formats::write_gguf(path, gguf->metadata(), gguf->tensors());
  ComputePool pool(2);
  const Checkpoint checkpoint = Checkpoint::open(path);
  const auto touch = [&] {
    volatile std::byte sink;
    for (size_t i = 0; i < checkpoint.weights().layers[0].up.weight.data.size(); i += 4096) {
      sink = checkpoint.weights().layers[0].up.weight.data[i];
    }
    (void)sink;
  };
  touch();
  EXPECT_GE(resident(path), 3000u);  // the matrix of 4 MiB: this test sees what it looks for
  const PackCache cache(options());
  for (const PackCache* how : {static_cast<const PackCache*>(nullptr), &cache, &cache}) {
    touch();
    const PackedWeights packed = pack_weights(checkpoint, Arithmetic::kExactQ8, pool, {}, how);
    EXPECT_LT(resident(path), 256u);
  }
}

}  // namespace
}  // namespace tutti::models

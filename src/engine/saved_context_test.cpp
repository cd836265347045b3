// Contexts as files: what continues from one equals what never stopped, bit for bit, and nothing
// else is accepted.
#include "engine/saved_context.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"

namespace tutti::engine {
namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes_of(const Context& context) {
  Bytes bytes;
  ContextFile::write(context, [&](std::span<const std::byte> b) {
    bytes.insert(bytes.end(), b.begin(), b.end());
  });
  return bytes;
}

template <class F>
ErrorKind refusal(F f, std::string* message = nullptr) {
  try {
    f();
  } catch (const Error& e) {
    if (message) *message = e.what();
    return e.kind();
  }
  ADD_FAILURE() << "accepted";
  return ErrorKind::kUsage;
}

class SavedContext : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tutti-contexts-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::filesystem::path dir_;
};

// A context of 50 prompt tokens, a kept tree path and a bidirectional block, on many pages.
Task<void> fill(Engine& engine, Context& context) {
  co_await engine.forward(context, Rows::append(random_tokens(1, 50), 0, std::nullopt));
  Rows tree;  // 0 - {1 - 3, 2}: rows 0, 1, 3 stay
  const std::vector<std::vector<int>> above{{}, {0}, {0}, {0, 1}};
  for (int node = 0; node < 4; ++node) {
    View view{Segment::slots()};
    for (const int up : above[size_t(node)]) view.push_back(Segment::fresh(up, 1));
    Row row(10 + node, 50 + int(above[size_t(node)].size()));
    row.view = tree.add_view(view);
    tree.rows.push_back(std::move(row));
  }
  co_await engine.forward(context, std::move(tree));
  const std::vector<int> kept{0, 1, 3};
  context.keep(50, kept);
  Rows block;
  for (int i = 0; i < 6; ++i) {
    Row row(30 + i, 53 + i);
    row.view = block.add_view({Segment::slots(), Segment::fresh()});
    if (i == 2) {
      row.in = RowInput();
      row.in.kind = RowInput::kMix;
      row.in.ids = {3, 4};
      row.in.weights = {0.25f, 0.75f};
    }
    block.rows.push_back(std::move(row));
  }
  co_await engine.forward(context, std::move(block));
}

Task<std::vector<float>> continue_from(Engine& engine, Context& context) {
  const Answer answer = co_await engine.forward(
      context, Rows::append(random_tokens(9, 40), context.next_position(), want_logits()));
  co_return answer.rows.back().logits;
}

class ContinuesAs : public testing::TestWithParam<tensor::KvType> {};
INSTANTIATE_TEST_SUITE_P(Kv, ContinuesAs,
                         testing::Values(tensor::KvType::kF16, tensor::KvType::kF32,
                                         tensor::KvType::kI8));

TEST_P(ContinuesAs, TheUninterruptedContext) {
  const TinyModel tiny = tiny_model(tensor::Type::kQ4_1, tensor::Arithmetic::kExactQ8, 1);
  EngineOptions options = small_engine(64, true);
  options.kv = GetParam();
  Bytes saved;
  std::vector<float> expected;
  {
    Engine engine(tiny.model, tiny.pool, options);
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(engine, request);
                   co_await fill(engine, context);
                   saved = bytes_of(context);
                   expected = co_await continue_from(engine, context);
                 }});
  }
  Engine engine(tiny.model, tiny.pool, options);
  const auto requests =
      run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                     Context context = ContextFile::read(engine, request, saved, "test");
                     EXPECT_EQ(context.size(), 59);
                     EXPECT_EQ(context.state().resident, 59);
                     EXPECT_EQ(bytes_of(context), saved);
                     Context preempted = context.fork();
                     const auto from_file = co_await continue_from(engine, context);
                     EXPECT_EQ(from_file, expected);
                     EXPECT_EQ(engine.statistics().rebuilt_rows, 0u);
                     preempted.release();  // as when its pages are taken away
                     const Bytes nonresident = bytes_of(preempted);
                     const auto from_recipe = co_await continue_from(engine, preempted);
                     EXPECT_EQ(from_recipe, expected);
                     EXPECT_EQ(engine.statistics().rebuilt_rows, 59u);
                     Context recipe_only = ContextFile::read(engine, request, nonresident, "test");
                     const auto from_recipe_file = co_await continue_from(engine, recipe_only);
                     EXPECT_EQ(from_recipe_file, expected);
                   }});
  engine.prefix_cache().clear();
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

// Overwritten slots, dropped ones, forks that share pages: cannot be recomputed, but are saved as
// they are.
TEST_F(SavedContext, WhatCannotBeRecomputedIsSavedToo) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine());
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine, request);
                 co_await fill(engine, context);
                 Context fork = context.fork();
                 fork.drop(20, 7);
                 context.concat(fork, 20);
                 context.save(dir_ / "a");
                 Context loaded = Context::load(engine, request, dir_ / "a");
                 EXPECT_FALSE(loaded.state().reproducible);
                 EXPECT_EQ(loaded.size(), context.size());
                 const auto expected = co_await continue_from(engine, context);
                 const auto got = co_await continue_from(engine, loaded);
                 EXPECT_EQ(got, expected);
               }});
}

TEST_F(SavedContext, NoOtherRequestsKeysAreWritten) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine(4));
  std::vector<Bytes> files;
  for (const uint32_t before : {7u, 8u}) {  // what stood in the pages earlier must not show
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(engine, request);
                   co_await engine.forward(
                       context, Rows::append(random_tokens(before, 128), 0, std::nullopt));
                 }});
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(engine, request);
                   co_await engine.forward(context,
                                           Rows::append(random_tokens(1, 40), 0, std::nullopt));
                   files.push_back(bytes_of(context));
                 }});
  }
  EXPECT_EQ(files[0], files[1]);
}

class Refused : public SavedContext {
 protected:
  void SetUp() override {
    SavedContext::SetUp();
    run_programs(engine_, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(engine_, request, 5);
                   co_await engine_.forward(context,
                                            Rows::append(random_tokens(1, 3), 0, std::nullopt));
                   Rows rows;
                   rows.rows.emplace_back(7, 3);
                   rows.rows.emplace_back(8, 4);
                   rows.rows[0].view = rows.rows[1].view =
                       rows.add_view({Segment::slots(1, 2), Segment::fresh()});
                   co_await engine_.forward(context, std::move(rows));
                   saved_ = bytes_of(context);
                 }});
  }
  void TearDown() override {
    EXPECT_EQ(engine_.pages().free(), engine_.pages().total());
    SavedContext::TearDown();
  }
  Context read(Engine& engine, const Bytes& bytes, uint64_t salt = 5) {
    return ContextFile::read(engine, engine.new_request(), bytes, "file", salt);
  }
  TinyModel tiny_ = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine_{tiny_.model, tiny_.pool, small_engine(16)};
  Bytes saved_;
};

TEST_F(Refused, EveryTruncationAndEveryExtension) {
  EXPECT_EQ(read(engine_, saved_).size(), 5);
  for (size_t n = 0; n < saved_.size(); ++n) {
    EXPECT_EQ(refusal([&] { read(engine_, Bytes(saved_.begin(), saved_.begin() + long(n))); }),
              ErrorKind::kBadFile)
        << n;
  }
  Bytes longer = saved_;
  longer.push_back(std::byte(0));
  EXPECT_EQ(refusal([&] { read(engine_, longer); }), ErrorKind::kBadFile);
}

TEST_F(Refused, BitFlipsAnywhere) {
  DrawKey key;
  key.purpose = Purpose::kTest;
  const size_t head = 400;  // every bit of the head, then a sample
  for (size_t i = 0; i < head * 8 + 4000; ++i) {
    const size_t bit = i < head * 8 ? i : draw_word(key, uint32_t(i)) % (saved_.size() * 8);
    Bytes flipped = saved_;
    flipped[bit / 8] ^= std::byte(1 << (bit % 8));
    refusal([&] { read(engine_, flipped); });
  }
}

TEST_F(Refused, ForeignFilesEachForItsReason) {
  std::string message;
  const auto said = [&](const char* what) {
    EXPECT_NE(message.find(what), std::string::npos) << message;
    EXPECT_EQ(message.find("file: "), 0u) << message;
  };
  EXPECT_EQ(refusal([&] { read(engine_, Bytes(500, std::byte('G'))); }, &message),
            ErrorKind::kBadFile);
  said("not a saved context");
  EXPECT_EQ(refusal([&] { read(engine_, saved_, 6); }, &message), ErrorKind::kUnsupported);
  said("salt");
  const TinyModel other = tiny_model(tensor::Type::kQ8_0, tensor::Arithmetic::kExactQ8, 1);
  Engine other_engine(other.model, other.pool, small_engine(16));
  EXPECT_EQ(refusal([&] { read(other_engine, saved_); }, &message), ErrorKind::kUnsupported);
  said("another model");
  const TinyModel widened = tiny_model(tensor::Type::kQ8_0, tensor::Arithmetic::kExactF32, 1);
  EXPECT_NE(other.model->fingerprint(),
            widened.model->fingerprint());  // same file, other arithmetic
  const TinyModel again = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 2);
  EXPECT_EQ(again.model->fingerprint(), tiny_.model->fingerprint());
  EngineOptions wide = small_engine(16);
  wide.kv = tensor::KvType::kF32;
  Engine wide_engine(tiny_.model, tiny_.pool, wide);
  EXPECT_EQ(refusal([&] { read(wide_engine, saved_); }, &message), ErrorKind::kUnsupported);
  said("--kv");
  Engine small(tiny_.model, tiny_.pool, small_engine(1));
  run_programs(small, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context held(small, request);
                 co_await small.forward(held, Rows::append(random_tokens(1, 3), 0, std::nullopt));
                 held.drop(0, 1);  // cannot be recomputed, so its page stays
                 EXPECT_EQ(refusal([&] { read(small, saved_); }, &message), ErrorKind::kLimit);
               }});
  EXPECT_EQ(
      refusal([&] { Context::load(engine_, engine_.new_request(), dir_ / "none"); }, &message),
      ErrorKind::kNotFound);
}

TEST_F(SavedContext, KilledWhileWritingLeavesTheOldFileOrNone) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine());
  run_programs(
      engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
        Context context(engine, request);
        co_await engine.forward(context, Rows::append(random_tokens(1, 200), 0, std::nullopt));
        const Bytes whole = bytes_of(context);
        for (const bool old : {false, true}) {
          const auto path = dir_ / "victim";
          if (old) context.save(path);
          for (const size_t written : {size_t(0), size_t(1), whole.size() / 2, whole.size()}) {
            // The child stops after `written` bytes, through the same sink, and is killed there.
            int ready[2];
            if (::pipe(ready) != 0) throw std::runtime_error("pipe");
            const pid_t child = ::fork();
            if (child == 0) {
              write_file_atomically(path, [&](const Sink& sink) {
                size_t at = 0;
                const auto stop = [&] {
                  if (::write(ready[1], "x", 1) != 1) ::_exit(1);
                  for (;;) ::pause();
                };
                ContextFile::write(context, [&](std::span<const std::byte> bytes) {
                  const size_t n = std::min(bytes.size(), written - at);
                  sink(bytes.first(n));
                  at += n;
                  if (at == written) stop();
                });
              });
              ::_exit(0);
            }
            char c;
            EXPECT_EQ(::read(ready[0], &c, 1), 1);
            ::kill(child, SIGKILL);
            int status;
            ::waitpid(child, &status, 0);
            EXPECT_TRUE(WIFSIGNALED(status));
            ::close(ready[0]);
            ::close(ready[1]);
            EXPECT_EQ(std::filesystem::exists(path), old);
            if (old) {
              EXPECT_EQ(Context::load(engine, request, path).size(), 200);
            }
            // What the killed writer left beside it is never taken for a Context.
            for (const auto& entry : std::filesystem::directory_iterator(dir_)) {
              if (entry.path() == path) continue;
              refusal([&] { Context::load(engine, request, entry.path()); });
              std::filesystem::remove(entry.path());
            }
          }
        }
      }});
}

TEST_F(SavedContext, LoadedPagesServeNobodyElse) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine(64, true));
  Bytes saved;
  const auto tokens = random_tokens(1, 100);
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine, request);
                 co_await engine.forward(context, Rows::append(tokens, 0, std::nullopt));
                 saved = bytes_of(context);
               }});
  engine.prefix_cache().clear();
  run_programs(
      engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
        Context context = ContextFile::read(engine, request, saved, "test");
        co_await engine.forward(context, Rows::append(random_tokens(2, 100), 100, std::nullopt));
        EXPECT_EQ(engine.prefix_cache().size(), 0);
        context.release();  // recomputed, its pages are the engine's own work again
        co_await engine.forward(context, Rows::append(random_tokens(3, 1), 200, std::nullopt));
        EXPECT_EQ(engine.prefix_cache().size(), 6);
      }});
}

}  // namespace
}  // namespace tutti::engine

#include "decode/speculative/remote_draft.h"

#include <boost/asio/post.hpp>
#include <utility>

#include "engine/crossing.h"

namespace tutti::decode::speculative {

struct RemoteDraft::Remote {
  engine::Context context;
  std::vector<int32_t> held;  // the tokens of its Context

  Task<DraftResult> run(engine::Engine& engine, size_t known, DraftOrder order) {
    const auto began = std::chrono::steady_clock::now();
    if (!context) context = engine::Context(engine, engine.new_request());
    // Of what was drafted, what came to stand is kept; the root is fed again at least.
    size_t same = 0;
    while (known + same < held.size() && same + 1 < order.tokens.size() &&
           held[known + same] == order.tokens[same])
      ++same;
    held.resize(known + same);
    if (context.size() > int(held.size())) {
      co_await engine.restore(context);
      context.truncate(int(held.size()));
    }
    held.insert(held.end(), order.tokens.begin() + ptrdiff_t(same), order.tokens.end());
    order.tokens.erase(order.tokens.begin(), order.tokens.begin() + ptrdiff_t(same));
    DraftResult result = co_await run_draft(engine, context, std::move(order));
    if (result.forwards == 0) held.resize(size_t(context.size()));  // nothing was fed
    int node = Tree::kRoot;
    for (int i = 0; i < result.fed; ++i) {
      node = result.tree.children(node).front();
      held.push_back(result.tree[node].token);
    }
    result.began = began;
    result.ended = std::chrono::steady_clock::now();
    co_return result;
  }
};

RemoteDraft::RemoteDraft(std::shared_ptr<const DraftModel> model)
    : model_(std::move(model)), remote_(std::make_shared<Remote>()) {}

RemoteDraft::~RemoteDraft() {
  asio::post(model_->engine().io(), [remote = std::move(remote_)]() mutable { remote.reset(); });
}

Task<DraftResult> RemoteDraft::run(size_t known, DraftOrder order) {
  if (!cores_ && model_->cores()) cores_.emplace(model_->cores());
  // Not the DraftModel: an engine's program that owns its engine would keep both for ever.
  auto away = [&engine = model_->engine(), remote = remote_, known,
               order = std::move(order)]() mutable -> Task<DraftResult> {
    co_return co_await remote->run(engine, known, std::move(order));
  };
  try {
    co_return co_await engine::on(model_->engine(), std::move(away));
  } catch (const Error& error) {
    // What a query itself is refused for is of another kind.
    if (error.kind() != ErrorKind::kSystem) throw;
    model_->fail();
    throw DraftFailure(error.what());
  }
}

}  // namespace tutti::decode::speculative

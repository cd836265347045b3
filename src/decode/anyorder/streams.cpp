#include "decode/anyorder/streams.h"

#include <algorithm>
#include <utility>

namespace tutti::decode::anyorder {

using engine::Row;
using engine::Rows;
using engine::Segment;
using engine::View;

Streams::Streams(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                 const InfillTask& task, bool cached)
    : engine_(engine),
      request_(std::move(request)),
      context_(engine, request_),
      cached_(cached),
      tokens_(task.tokens),
      order_(task.order) {
  std::vector<bool> blank(tokens_.size());
  for (const int p : order_) blank[size_t(p)] = true;
  for (size_t p = 0; p < tokens_.size(); ++p) {
    if (!blank[p]) pending_.push_back({int(p), tokens_[p]});
  }
  given_ = int(pending_.size());
}

// The pending rows, then those of the proposed tokens: each sees the Context and the rows before
// it, what is given sees all that is given.
Rows Streams::content_rows(std::span<const int32_t> proposed) const {
  Rows rows;
  const engine::ViewId all_given = rows.add_view({Segment::fresh(0, given_)});
  const auto add = [&](int32_t token, int position) {
    const int before = int(rows.rows.size());
    rows.rows.emplace_back(token, position);
    rows.rows.back().view =
        before < given_ ? all_given : rows.add_view({Segment::slots(), Segment::fresh(0, before)});
  };
  for (const Content& c : pending_) add(c.token, c.position);
  for (size_t i = 0; i < proposed.size(); ++i) add(proposed[i], position(decided_ + int(i)));
  return rows;
}

Task<std::vector<engine::RowAnswer>> Streams::ask(std::span<const int32_t> proposed,
                                                  std::vector<engine::Want> wants) {
  Rows rows = content_rows(proposed);
  const int contents = int(rows.rows.size()), pending = int(pending_.size());
  for (size_t i = 0; i < wants.size(); ++i) {
    Row row;
    row.in.kind = engine::RowInput::kMask;
    row.position = position(decided_ + int(i));
    row.sees_self = false;
    row.write = engine::Write::none();
    row.want = std::move(wants[i]);
    const int seen = pending + int(std::min(i, proposed.size()));
    row.view = rows.add_view({Segment::slots(), Segment::fresh(0, seen)});
    rows.rows.push_back(std::move(row));
  }
  proposed_.assign(proposed.begin(), proposed.end());
  engine::Answer answer = co_await engine_.forward(context_, std::move(rows));
  if (cached_) {
    pending_.clear();
    given_ = 0;
  } else {
    context_.truncate(0);
    proposed_.clear();
  }
  co_return std::vector<engine::RowAnswer>(std::make_move_iterator(answer.rows.begin() + contents),
                                           std::make_move_iterator(answer.rows.end()));
}

void Streams::decide(std::span<const int32_t> tokens) {
  size_t kept = 0;
  while (kept < std::min(tokens.size(), proposed_.size()) && tokens[kept] == proposed_[kept])
    ++kept;
  if (kept < proposed_.size()) context_.truncate(context_.size() - int(proposed_.size() - kept));
  proposed_.clear();
  for (size_t i = 0; i < tokens.size(); ++i, ++decided_) {
    const int p = position(decided_);
    tokens_[size_t(p)] = tokens[i];
    if (i >= kept) pending_.push_back({p, tokens[i]});
  }
}

}  // namespace tutti::decode::anyorder

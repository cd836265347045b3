#include "decode/ppd/measure.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace tutti::decode::ppd {

namespace {

constexpr int kAnchorsPerForward = 32;

// Prompt tokens behind the slots `anchors` of a Context, without a trace in it.
engine::Rows rows_behind(const PromptTokens& prompts, const std::vector<int>& anchors, int ranks) {
  engine::Rows rows;
  for (const int anchor : anchors) {
    const int first = int(rows.rows.size());
    const engine::ViewId view =
        rows.add_view({engine::Segment::slots(0, anchor + 1),
                       engine::Segment::fresh(first, prompts.count(), true)});
    for (int j = 1; j <= prompts.count(); ++j) {
      engine::Row row;
      row.in.kind = engine::RowInput::kVector;
      row.in.vector = prompts.vectors[size_t(j - 1)];
      row.position = anchor + j;
      row.view = view;
      row.write = engine::Write::none();
      engine::Want want;
      want.top_k = ranks;
      row.want = want;
      rows.rows.push_back(std::move(row));
    }
  }
  return rows;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ptrdiff_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

speculative::AcceptanceTable Accuracy::table() const {
  speculative::AcceptanceTable table;
  for (const auto& row : hits) {
    table.emplace_back();
    for (const uint64_t h : row)
      table.back().push_back(anchors > 0 ? double(h) / double(anchors) : 0.0);
  }
  return table;
}

Task<Accuracy> measure_accuracy(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                                const PromptTokens& prompts, const std::vector<MeasuredText>& texts,
                                int ranks, std::function<void(size_t)> on_text) {
  Accuracy accuracy;
  accuracy.hits.assign(size_t(prompts.count()), std::vector<uint64_t>(size_t(ranks), 0));
  for (size_t t = 0; t < texts.size(); ++t) {
    const std::vector<int32_t>& tokens = texts[t].tokens;
    engine::Context context(engine, request);
    engine::Rows text = engine::Rows::append(tokens, 0, std::nullopt);
    co_await engine.forward(context, std::move(text));
    const int last = int(tokens.size()) - prompts.count() - 2;
    for (int next = std::max(texts[t].prompt - 1, 0); next <= last;) {
      std::vector<int> anchors;
      while (next <= last && int(anchors.size()) < kAnchorsPerForward) anchors.push_back(next++);
      const engine::Answer answer =
          co_await engine.forward(context, rows_behind(prompts, anchors, ranks));
      for (size_t row = 0; row < answer.rows.size(); ++row) {
        const size_t j = row % size_t(prompts.count());
        const int32_t right = tokens[size_t(anchors[row / size_t(prompts.count())]) + j + 2];
        const auto& top = answer.rows[row].top;
        for (size_t a = 0; a < top.size(); ++a) accuracy.hits[j][a] += top[a].first == right;
      }
      accuracy.anchors += anchors.size();
    }
    if (on_text) on_text(t + 1);
  }
  co_return accuracy;
}

Task<RowTable> measure_rows(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                            int keys, std::vector<int> rows, int rounds) {
  const int vocabulary = engine.model().config().vocab;
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < keys; ++i) tokens.push_back(int32_t((i * 7919 + 13) % vocabulary));
  engine::Context context(engine, request);
  engine::Rows text = engine::Rows::append(tokens, 0, std::nullopt);
  co_await engine.forward(context, std::move(text));
  std::vector<std::vector<double>> seconds(rows.size());
  for (int round = 0; round <= rounds; ++round) {
    for (size_t i = 0; i < rows.size(); ++i) {
      engine::Rows some;
      for (int r = 0; r < rows[i]; ++r) {
        engine::Row row(int32_t((r * 104729 + round) % vocabulary), keys + r);
        row.write = engine::Write::none();
        engine::Want want;
        want.pick = true;
        want.sampling.temperature = 0;
        row.want = want;
        some.rows.push_back(std::move(row));
      }
      const auto start = std::chrono::steady_clock::now();
      co_await engine.forward(context, std::move(some));
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (round > 0) seconds[i].push_back(took.count());  // the first warms up
    }
  }
  RowTable table;
  for (size_t i = 0; i < rows.size(); ++i) table.emplace_back(rows[i], median(seconds[i]));
  co_return table;
}

std::function<double(int)> rising(RowTable table) {
  std::sort(table.begin(), table.end());
  struct Pool {
    double mean;
    size_t count;
  };
  std::vector<Pool> pools;
  for (const auto& [rows, seconds] : table) {
    pools.push_back({seconds, 1});
    while (pools.size() > 1 && pools[pools.size() - 2].mean > pools.back().mean) {
      const Pool last = pools.back();
      pools.pop_back();
      Pool& to = pools.back();
      const size_t count = to.count + last.count;
      to.mean = (to.mean * double(to.count) + last.mean * double(last.count)) / double(count);
      to.count = count;
    }
  }
  size_t at = 0;
  for (const Pool& pool : pools) {
    for (size_t i = 0; i < pool.count; ++i) table[at++].second = pool.mean;
  }
  return [table = std::move(table)](int rows) {
    if (table.size() == 1 || rows <= table.front().first) return table.front().second;
    size_t after = 1;
    while (after + 1 < table.size() && table[after].first < rows) ++after;
    const auto& [r0, s0] = table[after - 1];
    const auto& [r1, s1] = table[after];
    return s0 + (s1 - s0) * double(rows - r0) / double(r1 - r0);
  };
}

}  // namespace tutti::decode::ppd

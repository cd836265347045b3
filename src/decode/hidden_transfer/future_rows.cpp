#include "decode/hidden_transfer/future_rows.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace tutti::decode::speculative {

namespace {

// The Context, then the drafts from the root to `node`.
engine::View path_of(const Tree& tree, int node) {
  engine::View view{engine::Segment::slots()};
  for (int at = node; at >= 0; at = tree[at].parent)
    view.insert(view.begin() + 1, engine::Segment::fresh(at, 1));
  return view;
}

}  // namespace

FutureMaps::FutureMaps(const train::TransferMaps& from)
    : enter(from.enter),
      leave(from.layers),
      refined(from.refined),
      see_previous(from.see_previous) {
  for (const auto& map : from.maps)
    maps.push_back(models::LinearMap::make(from.hidden, map.weight, map.bias));
  maps.resize(enter.size(), maps.front());  // one for all
}

void add_future_rows(engine::Rows& rows, const Tree& tree, int position, int node, int count,
                     const FutureMaps& maps, const std::function<engine::Want(int, int)>& want,
                     std::vector<FutureRow>& added) {
  const int first = int(rows.rows.size()), stands = position + tree[node].depth;
  for (int offset = 0; offset < count; ++offset) {
    engine::Row row;
    row.in.kind = engine::RowInput::kFromRow;
    row.in.row = node;
    row.in.map = maps.maps[size_t(offset)];
    row.active.enter = maps.enter[size_t(offset)];
    row.active.leave = maps.refined ? maps.leave : row.active.enter;
    row.position = engine::Position(stands + offset + 1);
    row.write = engine::Write::none();
    engine::View view = path_of(tree, node);
    if (maps.see_previous && offset > 0) view.push_back(engine::Segment::fresh(first, offset));
    row.view = rows.add_view(std::move(view));
    row.want = want(offset, stands + offset + 2);
    added.push_back({node, offset, int(rows.rows.size())});
    rows.rows.push_back(std::move(row));
  }
}

std::vector<int> likeliest_ends(const Tree& tree, int count) {
  std::vector<double> ends(size_t(tree.size()));
  for (int i = 0; i < tree.size(); ++i) {
    ends[size_t(i)] += tree[i].reach;
    if (i > 0) ends[size_t(tree[i].parent)] -= tree[i].reach;
  }
  std::vector<int> order(size_t(tree.size()));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int a, int b) { return ends[size_t(a)] > ends[size_t(b)]; });
  order.resize(std::min(order.size(), size_t(count)));
  std::ranges::sort(order);
  return order;
}

}  // namespace tutti::decode::speculative

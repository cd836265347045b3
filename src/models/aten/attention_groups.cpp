#include "models/aten/attention_groups.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

namespace tutti::models {
namespace {

// An active row sees `count` keys from `first` on through a softmax class, once or once more.
struct Sight {
  int64_t row, first, count;
  int softmax_class;
};

struct Group {
  std::vector<int64_t> rows, keys;
  std::vector<Sight> sights;
};

// What every row sees, in as few stretches as it can be said: a training step has a million pairs
// of row and key. Keys: earlier slots, then the batch's rows.
std::vector<Sight> all_sights(const Batch& batch, const std::vector<RunSpan>& spans,
                              int64_t slots) {
  std::vector<int64_t> row_of_slot(size_t(slots), -1);
  for (int r = 0; r < batch.rows(); ++r) {
    const size_t slot = size_t(batch.slots[size_t(r)].page) * tensor::kPageSlots +
                        size_t(batch.slots[size_t(r)].slot);
    if (slot >= row_of_slot.size()) row_of_slot.resize(slot + 1, -1);
    row_of_slot[slot] = r;
  }
  std::vector<Sight> sights;
  for (size_t i = 0; i < spans.size(); ++i) {
    for (int j = 0; j < spans[i].count; ++j) {
      const tensor::KvRun& run = batch.runs[size_t(spans[i].first + j)];
      for (int s = run.first; s < run.first + run.count; ++s) {
        const int64_t slot = int64_t(run.page) * tensor::kPageSlots + s;
        const int64_t fresh = row_of_slot.at(size_t(slot));
        const int64_t key = fresh >= 0 ? slots + fresh : slot;
        Sight* last = sights.empty() ? nullptr : &sights.back();
        if (last && last->row == int64_t(i) && last->softmax_class == run.softmax_class &&
            key == last->first + last->count) {
          ++last->count;
        } else {
          sights.push_back({int64_t(i), key, 1, run.softmax_class});
        }
      }
    }
  }
  return sights;
}

// Sets that grow together.
class Union {
 public:
  explicit Union(size_t n) : parent_(n) { std::iota(parent_.begin(), parent_.end(), size_t(0)); }
  size_t root(size_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  void join(size_t a, size_t b) {
    parent_[std::max(root(a), root(b))] = std::min(root(a), root(b));
  }

 private:
  std::vector<size_t> parent_;
};

// The groups by their first rows; rows and keys ascend in each.
std::vector<Group> split(const std::vector<Sight>& sights, size_t rows, size_t keys) {
  Union sets(rows + keys);
  std::vector<bool> with_next(keys, false);  // keys that are joined with the one behind them
  for (const Sight& s : sights) {
    sets.join(size_t(s.row), rows + size_t(s.first));
    for (auto k = size_t(s.first); k + 1 < size_t(s.first + s.count); ++k) {
      if (with_next[k]) continue;
      sets.join(rows + k, rows + k + 1);
      with_next[k] = true;
    }
  }
  std::map<size_t, Group> groups;  // by root, which is the group's first row
  for (size_t i = 0; i < rows; ++i) groups[sets.root(i)].rows.push_back(int64_t(i));
  for (size_t k = 0; k < keys; ++k) {
    if (const auto found = groups.find(sets.root(rows + k)); found != groups.end()) {
      found->second.keys.push_back(int64_t(k));
    }
  }
  for (const Sight& s : sights) groups[sets.root(size_t(s.row))].sights.push_back(s);
  std::vector<Group> out;
  for (auto& [root, group] : groups) out.push_back(std::move(group));
  return out;
}

int64_t index_of(const std::vector<int64_t>& ascending, int64_t value) {
  return std::lower_bound(ascending.begin(), ascending.end(), value) - ascending.begin();
}

// Whether `index` is first, first + 1, … in order, `count` long.
bool is_run(const std::vector<int64_t>& index, int64_t first, int64_t count) {
  if (int64_t(index.size()) != count) return false;
  for (int64_t i = 0; i < count; ++i) {
    if (index[size_t(i)] != first + i) return false;
  }
  return true;
}

tensor::SoftmaxClass class_of(const Batch& batch, int row, int id) {
  if (batch.row_classes.empty()) return batch.classes[id];
  const auto& own = batch.row_classes[size_t(row)];
  return size_t(id) < own.size() ? own[size_t(id)] : tensor::SoftmaxClass{};
}

// One class of a bucket from how often who sees what: counts is float [G, r, k].
AttentionBucket::Class make_class(const Batch& batch, const Epoch& epoch, const at::Tensor& counts,
                                  int id, const std::vector<int64_t>& rows) {
  AttentionBucket::Class c;
  const at::Tensor unseen = (counts == 0).unsqueeze(1);
  if (unseen.any().item<bool>()) c.hidden = unseen;
  if ((counts > 1).any().item<bool>())
    c.log_count = counts.to(at::kDouble).clamp_min(1).log().unsqueeze(1);
  c.blind = unseen.all(-1).any().item<bool>();
  std::vector<float> inverse_temperature, lse_scale;
  for (const int64_t row : rows) {
    const tensor::SoftmaxClass softmax = class_of(batch, epoch.rows[size_t(row)], id);
    inverse_temperature.push_back(softmax.inverse_temperature);
    lse_scale.push_back(softmax.lse_scale);
  }
  const auto per_row = [&](const std::vector<float>& values) {
    if (std::ranges::all_of(values, [](float v) { return v == 1.0f; })) return at::Tensor();
    return at::tensor(values).view({counts.size(0), 1, counts.size(1), 1});
  };
  c.inverse_temperature = per_row(inverse_temperature);
  c.lse_scale = per_row(lse_scale);
  return c;
}

// Groups padded to r rows and k keys: a padding row repeats row 0 of the batch and sees nothing.
AttentionBucket make_bucket(const Batch& batch, const Epoch& epoch,
                            const std::vector<const Group*>& groups, int64_t r, int64_t k,
                            int64_t slots) {
  AttentionBucket bucket;
  bucket.groups = int64_t(groups.size());
  bucket.rows = r;
  bucket.keys = k;
  std::vector<int64_t> rows, keys;
  std::set<int> used;
  for (const Group* group : groups) {
    for (int64_t i = 0; i < r; ++i)
      rows.push_back(i < int64_t(group->rows.size()) ? group->rows[size_t(i)] : 0);
    for (int64_t i = 0; i < k; ++i)
      keys.push_back(i < int64_t(group->keys.size()) ? group->keys[size_t(i)] : slots);
    for (const Sight& s : group->sights) used.insert(s.softmax_class);
  }
  if (used.empty()) used.insert(0);
  for (const int id : used) {
    const at::Tensor counts = at::zeros({bucket.groups, r, k}, at::kFloat);
    auto count = counts.accessor<float, 3>();
    for (size_t g = 0; g < groups.size(); ++g) {
      for (const Sight& s : groups[g]->sights) {
        if (s.softmax_class != id) continue;
        // Keys that stand side by side are all of this group, so they do here, too.
        float* seen = &count[int64_t(g)][index_of(groups[g]->rows, s.row)]
                            [index_of(groups[g]->keys, s.first)];
        for (int64_t i = 0; i < s.count; ++i) seen[i] += 1;
      }
    }
    bucket.classes.push_back(make_class(batch, epoch, counts, id, rows));
  }
  if (!is_run(rows, 0, int64_t(epoch.rows.size()))) bucket.row_index = at::tensor(rows, at::kLong);
  if (slots > 0 || !is_run(keys, 0, batch.rows())) bucket.key_index = at::tensor(keys, at::kLong);
  return bucket;
}

// Groups of many sizes are padded to few, so that few products are many groups wide.
int64_t padded(size_t n, bool many_sizes) {
  const int64_t least = std::max<int64_t>(int64_t(n), 1);
  return many_sizes ? (least + 15) / 16 * 16 : least;
}

void move_to(AttentionGroups& groups, at::Device device) {
  const auto move = [&](at::Tensor& t) {
    if (t.defined()) t = t.to(device);
  };
  move(groups.order);
  for (AttentionBucket& bucket : groups.buckets) {
    move(bucket.row_index);
    move(bucket.key_index);
    for (AttentionBucket::Class& c : bucket.classes) {
      for (at::Tensor* t : {&c.hidden, &c.log_count, &c.inverse_temperature, &c.lse_scale})
        move(*t);
    }
  }
}

}  // namespace

AttentionGroups attention_groups(const Batch& batch, const Epoch& epoch,
                                 const std::vector<RunSpan>& spans, int64_t slots,
                                 at::Device device) {
  constexpr size_t kManySizes = 4;
  const std::vector<Sight> sights = all_sights(batch, spans, slots);
  const std::vector<Group> groups =
      split(sights, epoch.rows.size(), size_t(slots) + size_t(batch.rows()));
  std::set<std::pair<size_t, size_t>> sizes;
  for (const Group& g : groups) sizes.emplace(g.rows.size(), g.keys.size());
  const bool many = sizes.size() > kManySizes;
  std::map<std::pair<int64_t, int64_t>, std::vector<const Group*>> by_size;
  for (const Group& g : groups)
    by_size[{padded(g.rows.size(), many), padded(g.keys.size(), many)}].push_back(&g);

  AttentionGroups out;
  std::vector<int64_t> order(epoch.rows.size());
  int64_t place = 0;
  for (const auto& [size, members] : by_size) {
    out.buckets.push_back(make_bucket(batch, epoch, members, size.first, size.second, slots));
    for (const Group* group : members) {
      for (size_t i = 0; i < group->rows.size(); ++i)
        order[size_t(group->rows[i])] = place + int64_t(i);
      place += size.first;
    }
  }
  if (!is_run(order, 0, place)) out.order = at::tensor(order, at::kLong);
  move_to(out, device);
  return out;
}

}  // namespace tutti::models

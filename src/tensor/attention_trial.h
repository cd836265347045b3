// What the tests of attention share: random keys of one row, and random placements of them in
// pages.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/trial.h"

namespace tutti::tensor {

// The visible keys of one row in View order, and one random placement of them in pages.
struct Case {
  KvLayout layout;
  AttendParams params;
  int keys = 0;
  std::vector<float> q, k, v;  // [group][dim], [keys][dim], [keys][dim]
  std::vector<int> classes;    // of each key
};

inline Case random_case(Trial& trial, KvType type, int head_dim, int group, int keys,
                        int class_count, float cap) {
  Case c;
  c.layout = {.type = type, .layers = 2, .heads = 2, .head_dim = head_dim};
  c.params.layout = c.layout;
  c.params.layer = trial.below(2);
  c.params.kv_head = trial.below(2);
  c.params.group = group;
  c.params.scale = 1.0f / std::sqrt(float(head_dim));
  c.params.cap = cap;
  c.params.class_count = class_count;
  for (int i = 1; i < class_count; ++i) {
    c.params.classes[i] = {.inverse_temperature = trial.uniform(0.5f, 2.0f),
                           .lse_scale = trial.uniform(0.5f, 1.5f)};
  }
  c.keys = keys;
  c.q = trial.normals(group * head_dim, 2.0f);
  c.k = trial.normals(keys * head_dim, 1.5f);
  c.v = trial.normals(keys * head_dim);
  int current = 0;
  for (int i = 0; i < keys; ++i) {
    if (class_count > 1 && trial.below(5) == 0) current = trial.below(class_count);
    c.classes.push_back(current);
  }
  return c;
}

struct Placement {
  std::vector<std::vector<std::byte>> pages;
  std::vector<const std::byte*> table;
  std::vector<KvRun> runs;
};

// Puts the keys into slots: in runs of at most `longest`, each on a random page at a random free
// place, or with `packed` in order on full pages. Everything else in the pages is NaN.
inline Placement place(const Case& c, Trial& trial, int longest, bool packed) {
  Placement p;
  const size_t bytes = c.layout.page_bytes();
  const int n_heads = c.layout.heads * c.layout.head_dim;
  const auto store = [&](int page, int slot, int key) {
    std::vector<float> k(static_cast<size_t>(n_heads)), v(k.size());
    const size_t at = size_t(c.params.kv_head * c.layout.head_dim);
    std::copy_n(c.k.begin() + key * c.layout.head_dim, c.layout.head_dim,
                k.begin() + ptrdiff_t(at));
    std::copy_n(c.v.begin() + key * c.layout.head_dim, c.layout.head_dim,
                v.begin() + ptrdiff_t(at));
    kernels(Isa::kScalar)
        .store_kv(c.layout, c.params.layer, k.data(), v.data(), p.pages[size_t(page)].data(), slot);
  };
  for (int key = 0; key < c.keys;) {
    int most = packed ? 32 : 1 + trial.below(longest);
    int count = 0;
    while (count < most && key + count < c.keys &&
           c.classes[size_t(key + count)] == c.classes[size_t(key)]) {
      ++count;
    }
    int page = -1, first = 0;
    if (packed && !p.runs.empty() && p.runs.back().first + p.runs.back().count < 32) {
      page = p.runs.back().page;
      first = p.runs.back().first + p.runs.back().count;
      count = std::min(count, 32 - first);
    } else {
      page = int(p.pages.size());
      p.pages.emplace_back(bytes, std::byte{0xff});  // NaN in fp16 and fp32
      first = packed ? 0 : trial.below(33 - count);
    }
    for (int i = 0; i < count; ++i) store(page, first + i, key + i);
    p.runs.push_back({page, uint8_t(first), uint8_t(count), uint8_t(c.classes[size_t(key)])});
    key += count;
  }
  if (!packed) {  // page ids in random order: the table, not the id, says where a page is
    std::vector<int> id(p.pages.size());
    for (size_t i = 0; i < id.size(); ++i) id[i] = int(i);
    for (size_t i = id.size(); i > 1; --i) std::swap(id[i - 1], id[size_t(trial.below(int(i)))]);
    std::vector<std::vector<std::byte>> moved(p.pages.size());
    for (size_t i = 0; i < id.size(); ++i) moved[size_t(id[i])] = std::move(p.pages[i]);
    p.pages = std::move(moved);
    for (KvRun& run : p.runs) run.page = id[size_t(run.page)];
  }
  for (const auto& page : p.pages) p.table.push_back(page.data());
  return p;
}

}  // namespace tutti::tensor

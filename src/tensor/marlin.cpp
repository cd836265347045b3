#include "tensor/marlin.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "base/error.h"
#include "tensor/marlin_layout.h"

namespace tutti::tensor {
namespace {

constexpr uint8_t kZero = 8;

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

void check_symmetric(const Grid& grid) {
  check_grid(grid);
  const auto refuse = [](const char* what) {
    throw Error(ErrorKind::kUsage,
                std::string("MARLIN layout: ") + what +
                    "; quantise to symmetric 4-bit groups in the order of the inputs");
  };
  if (grid.bits != 4) refuse("the codes have 8 bits");
  if (std::ranges::any_of(grid.zeros, [](int z) { return z != kZero; }))
    refuse("the weights have zero points");
  for (int k = 0; k < grid.in; ++k) {
    if (grid.group_of(k) != k / grid.group) refuse("the groups follow an order of activations");
  }
}

// The frame of a padded layer, with its scales.
MarlinLayer frame(const Grid& grid, bool sparse) {
  MarlinLayer layer;
  const bool one_group = grid.group >= grid.in;
  layer.group = one_group ? -1 : grid.group;
  layer.in = round_up(grid.in, one_group ? kMarlinInputs : std::max(kMarlinInputs, grid.group));
  // Groups of 96, say: a multiple of both.
  while (!one_group && layer.in % grid.group != 0) layer.in += kMarlinInputs;
  layer.out = round_up(grid.out, kMarlinOutputs);
  const int groups = one_group ? 1 : layer.in / grid.group;
  layer.scales.resize(size_t(groups) * size_t(layer.out));
  for (int g = 0; g < grid.group_count(); ++g) {
    for (int n = 0; n < layer.out; ++n) {
      const int from = one_group ? (sparse ? n : marlin_column_scale(n))
                                 : (sparse ? sparse_marlin_group_scale(n) : marlin_group_scale(n));
      if (from < grid.out)
        layer.scales[size_t(g) * size_t(layer.out) + size_t(n)] =
            grid.scales[size_t(g) * size_t(grid.out) + size_t(from)];
    }
  }
  return layer;
}

uint8_t code_at(const Grid& grid, int k, int n) {
  return k < grid.in && n < grid.out ? grid.codes[size_t(k) * size_t(grid.out) + size_t(n)] : kZero;
}

uint32_t& word_at(MarlinLayer& layer, MarlinPlace place) {
  return layer.words[size_t(place.row) * 2 * size_t(layer.out) + size_t(place.word)];
}

uint8_t nibble_at(const MarlinLayer& layer, MarlinPlace place) {
  return uint8_t(layer.words[size_t(place.row) * 2 * size_t(layer.out) + size_t(place.word)] >>
                     (4 * place.nibble) &
                 15);
}

// Which two of four are kept. With fewer than two non-zeros any pair that has them would do; the
// choice is that of PyTorch's semi-structured tensors, so that files are alike.
std::pair<int, int> kept_pair(const std::array<uint8_t, 4>& codes, int k, int n) {
  int found[2] = {-1, -1}, count = 0;
  for (int i = 0; i < 4; ++i) {
    if (codes[size_t(i)] == kZero) continue;
    if (count == 2) {
      throw Error(ErrorKind::kUsage,
                  "2:4 sparse layout: inputs " + std::to_string(k) + " to " +
                      std::to_string(k + 3) + " of output " + std::to_string(n) +
                      " hold more than two non-zero weights; prune the matrix first");
    }
    found[count++] = i;
  }
  if (count == 2) return {found[0], found[1]};
  if (count == 1 && found[0] < 2) return {found[0], 2};
  return {2, 3};
}

}  // namespace

MarlinLayer pack_marlin(const Grid& grid) {
  check_symmetric(grid);
  MarlinLayer layer = frame(grid, false);
  layer.words.resize(size_t(layer.in / kMarlinTile) * 2 * size_t(layer.out));
  for (int k = 0; k < layer.in; ++k) {
    for (int n = 0; n < layer.out; ++n) {
      const MarlinPlace place = marlin_place(k, n);
      word_at(layer, place) |= uint32_t(code_at(grid, k, n)) << (4 * place.nibble);
    }
  }
  return layer;
}

MarlinLayer pack_sparse_marlin(const Grid& grid) {
  check_symmetric(grid);
  MarlinLayer layer = frame(grid, true);
  layer.words.resize(size_t(layer.in / 32) * 2 * size_t(layer.out));
  layer.indices.resize(layer.words.size());
  for (int k = 0; k < layer.in; k += 4) {
    for (int n = 0; n < layer.out; ++n) {
      std::array<uint8_t, 4> codes;
      for (int i = 0; i < 4; ++i) codes[size_t(i)] = code_at(grid, k + i, n);
      const auto [first, second] = kept_pair(codes, k, n);
      const std::array<int, 2> kept{first, second};
      for (int i = 0; i < 2; ++i) {
        const MarlinPlace place = sparse_marlin_place(k / 2 + i, n);
        word_at(layer, place) |= uint32_t(codes[size_t(kept[size_t(i)])]) << (4 * place.nibble);
      }
      layer.indices[size_t(sparse_marlin_index(n, k / 16, layer.out))] |=
          uint16_t((first | second << 2)
                   << (k % 16));  // four quads of four bits: bit k % 16 is quad (k % 16) / 4's
    }
  }
  return layer;
}

Grid unpack_marlin(const MarlinLayer& layer) {
  const bool sparse = !layer.indices.empty();
  const int step = sparse ? 32 : kMarlinTile;
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorKind::kBadFile, "MARLIN layer: " + what + "; the checkpoint is damaged");
  };
  if (layer.in < 1 || layer.out < 1 || layer.in % step != 0 || layer.out % kMarlinChunk != 0)
    refuse("[" + std::to_string(layer.in) + ", " + std::to_string(layer.out) +
           "] does not fit its tiles");
  if (layer.group != -1 && (layer.group < 1 || layer.in % layer.group != 0))
    refuse("the groups do not fit");
  Grid grid;
  grid.in = layer.in;
  grid.out = layer.out;
  grid.group = layer.group == -1 ? layer.in : layer.group;
  const size_t words = size_t(layer.in / step) * 2 * size_t(layer.out);
  const size_t scales = size_t(grid.group_count()) * size_t(grid.out);
  if (layer.words.size() != words || layer.scales.size() != scales ||
      (sparse && layer.indices.size() != words))
    refuse("its tensors have other sizes than its shape asks for");
  grid.codes.assign(size_t(grid.in) * size_t(grid.out), kZero);
  for (int n = 0; n < grid.out; ++n) {
    const auto at = [&](int k) -> uint8_t& {
      return grid.codes[size_t(k) * size_t(grid.out) + size_t(n)];
    };
    if (!sparse) {
      for (int k = 0; k < grid.in; ++k) at(k) = nibble_at(layer, marlin_place(k, n));
      continue;
    }
    for (int k = 0; k < grid.in; k += 4) {
      const int pair =
          layer.indices[size_t(sparse_marlin_index(n, k / 16, grid.out))] >> (k % 16) & 15;
      const int first = pair & 3, second = pair >> 2;
      if (first >= second) refuse("an index pair is out of order");
      at(k + first) = nibble_at(layer, sparse_marlin_place(k / 2, n));
      at(k + second) = nibble_at(layer, sparse_marlin_place(k / 2 + 1, n));
    }
  }
  grid.scales.resize(scales);
  for (int g = 0; g < grid.group_count(); ++g) {
    for (int n = 0; n < grid.out; ++n) {
      const int to = layer.group == -1
                         ? (sparse ? n : marlin_column_scale(n))
                         : (sparse ? sparse_marlin_group_scale(n) : marlin_group_scale(n));
      grid.scales[size_t(g) * size_t(grid.out) + size_t(to)] =
          layer.scales[size_t(g) * size_t(grid.out) + size_t(n)];
    }
  }
  return grid;
}

}  // namespace tutti::tensor

#include "vision/patches.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/draws.h"
#include "base/error.h"
#include "vision/windows.h"

namespace tutti::vision {
namespace {

TEST(SmartSize, Table) {
  const Preprocessing p;
  struct Case {
    Size in, out;
  };
  // From the rule by hand: multiples of 28, halves to even (42 = 1.5 cells -> 2, 70 = 2.5 -> 2),
  // then the limits.
  const Case cases[] = {{{280, 280}, {280, 280}},    {{56, 56}, {56, 56}},
                        {{70, 98}, {56, 112}},       {{42, 126}, {56, 112}},
                        {{28, 28}, {56, 56}},        {{28, 112}, {28, 112}},
                        {{640, 480}, {644, 476}},    {{1000, 1000}, {980, 980}},
                        {{1920, 1080}, {1316, 728}}, {{28, 60}, {56, 84}}};
  for (const Case& c : cases) {
    const Size out = smart_size(c.in, p, "x");
    EXPECT_EQ(out, c.out) << c.in.width << 'x' << c.in.height << " -> " << out.width << 'x'
                          << out.height;
  }
}

TEST(SmartSize, KeepsItsPromises) {
  Draws draws(3);
  const Preprocessing p;
  for (int i = 0; i < 20000; ++i) {
    const Size in{28 + draws.below(3000), 28 + draws.below(3000)};
    const Size out = smart_size(in, p, "x");
    EXPECT_EQ(out.width % 28, 0);
    EXPECT_EQ(out.height % 28, 0);
    const int64_t pixels = int64_t(out.width) * out.height;
    EXPECT_LE(pixels, p.max_pixels);
    EXPECT_GE(pixels, p.min_pixels);
  }
}

TEST(SmartSize, Refuses) {
  const Preprocessing p;
  for (const Size bad :
       {Size{27, 100}, Size{100, 27}, Size{28, 28 * 200 + 1}, Size{28 * 201, 28}}) {
    EXPECT_THROW(smart_size(bad, p, "x"), Error) << bad.width << ' ' << bad.height;
  }
  EXPECT_NO_THROW(smart_size({28, 28 * 200}, p, "x"));
}

Image numbered(int width, int height) {
  Image image{width, height, {}};
  Draws draws(9);
  for (int i = 0; i < width * height * 3; ++i) image.rgb.push_back(uint8_t(draws.below(256)));
  return image;
}

// The order by the published reshape: (gt, 2, C, gh/2, 2, 14, gw/2, 2, 14) to (gt, gh/2, gw/2, 2,
// 2, C, 2, 14, 14).
TEST(Patches, OrderAndValuesAreThoseOfNaiveLoops) {
  const Preprocessing p;
  for (const Size size : {Size{28, 28}, Size{56, 84}, Size{140, 28}}) {
    const Image image = numbered(size.width, size.height);
    const Patches patches = cut_patches(image, p);
    const int gh = size.height / 14, gw = size.width / 14;
    EXPECT_EQ(patches.grid, (Grid{1, gh, gw}));
    ASSERT_EQ(patches.values.size(), size_t(gh * gw * 1176));
    size_t i = 0;
    for (int hb = 0; hb < gh / 2; ++hb)
      for (int wb = 0; wb < gw / 2; ++wb)
        for (int hm = 0; hm < 2; ++hm)
          for (int wm = 0; wm < 2; ++wm)
            for (int c = 0; c < 3; ++c)
              for (int frame = 0; frame < 2; ++frame)
                for (int y = 0; y < 14; ++y)
                  for (int x = 0; x < 14; ++x) {
                    const int row = (hb * 2 + hm) * 14 + y, column = (wb * 2 + wm) * 14 + x;
                    const double v = image.rgb[size_t((row * size.width + column) * 3 + c)] / 255.0;
                    const double expected =
                        (v - double(p.mean[size_t(c)])) / double(p.deviation[size_t(c)]);
                    ASSERT_NEAR(patches.values[i++], expected, 1e-6);
                  }
  }
}

std::vector<Grid> grids() {
  std::vector<Grid> out;
  for (int h = 2; h <= 18; h += 2)
    for (int w = 2; w <= 10; w += 2) out.push_back({1 + (h + w) % 3 / 2, h, w});
  return out;
}

TEST(Windows, AreThoseOfNaiveLoopsAndComeBack) {
  for (const Grid& grid : grids()) {
    for (const int side : {1, 2, 4}) {
      const Windows windows = windows_of(grid, 2, side);
      // Every cell is asked for its window; windows are filled by number.
      const int rows = grid.h / 2, columns = grid.w / 2, across = (columns + side - 1) / side,
                down = (rows + side - 1) / side;
      std::vector<std::vector<int>> by_window(size_t(grid.t * across * down));
      for (int cell = 0; cell < grid.cells(2); ++cell) {
        const int t = cell / (rows * columns), y = cell / columns % rows, x = cell % columns;
        by_window[size_t((t * down + y / side) * across + x / side)].push_back(cell);
      }
      std::vector<int> order, sizes;
      for (const auto& window : by_window) {
        order.insert(order.end(), window.begin(), window.end());
        sizes.push_back(int(window.size()));
      }
      EXPECT_EQ(windows.order, order);
      EXPECT_EQ(windows.sizes, sizes);
      const std::vector<int> back = inverse_order(windows.order);
      for (size_t i = 0; i < order.size(); ++i) {
        EXPECT_EQ(back[size_t(order[i])], int(i));
        EXPECT_EQ(order[size_t(back[i])], int(i));
      }
    }
  }
}

TEST(Places, FollowTheOrderOfPatches) {
  for (const Grid& grid : grids()) {
    std::vector<Place> expected;
    for (int t = 0; t < grid.t; ++t)
      for (int hb = 0; hb < grid.h / 2; ++hb)
        for (int wb = 0; wb < grid.w / 2; ++wb)
          for (int y = 0; y < 2; ++y)
            for (int x = 0; x < 2; ++x) expected.push_back({hb * 2 + y, wb * 2 + x});
    EXPECT_EQ(patch_places(grid, 2), expected);
  }
}

TEST(Places, AnglesAreRowAndColumnTimesTheFrequencies) {
  const std::vector<Place> places = patch_places({1, 18, 10}, 2);
  const std::vector<float> angles = patch_angles(places, 80);
  ASSERT_EQ(angles.size(), places.size() * 40);
  for (size_t i = 0; i < places.size(); ++i) {
    for (int j = 0; j < 20; ++j) {
      const double f = std::pow(10000.0, -2.0 * j / 40.0);
      EXPECT_NEAR(angles[i * 40 + size_t(j)], places[i].row * f, 1e-6 * (1 + places[i].row));
      EXPECT_NEAR(angles[i * 40 + 20 + size_t(j)], places[i].column * f,
                  1e-6 * (1 + places[i].column));
    }
  }
}

constexpr int32_t kPad = 7;

TEST(PromptPositions, TextAloneCounts) {
  const std::vector<int32_t> tokens{1, 2, 3, 4};
  const PromptPositions p = prompt_positions(tokens, kPad, {}, 2);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(p.positions[size_t(i)], models::Position(i));
  EXPECT_EQ(p.next, 4);
}

TEST(PromptPositions, TwoImages) {
  // a [2 x 3 cells] b [1 x 1 cells, directly before] [4 x 1 cells] c, by hand.
  const std::vector<Grid> grids{{1, 4, 6}, {1, 2, 2}, {1, 8, 2}};
  std::vector<int32_t> tokens{1};
  tokens.insert(tokens.end(), 6, kPad);
  tokens.push_back(2);
  tokens.insert(tokens.end(), 5, kPad);
  tokens.push_back(3);
  const PromptPositions p = prompt_positions(tokens, kPad, grids, 2);
  using P = models::Position;
  const std::vector<P> expected{P(0),       P(1, 1, 1), P(1, 1, 2), P(1, 1, 3), P(1, 2, 1),
                                P(1, 2, 2), P(1, 2, 3), P(4),       P(5, 5, 5), P(6, 6, 6),
                                P(6, 7, 6), P(6, 8, 6), P(6, 9, 6), P(10)};
  EXPECT_EQ(p.positions, expected);
  EXPECT_EQ(p.next, 11);
}

TEST(PromptPositions, CountsMustMatch) {
  const std::vector<Grid> one{{1, 4, 4}};
  EXPECT_THROW(prompt_positions(std::vector<int32_t>{1, kPad, kPad, kPad, 2}, kPad, one, 2), Error);
  EXPECT_THROW(prompt_positions(std::vector<int32_t>{1, kPad, kPad, kPad}, kPad, one, 2), Error);
  EXPECT_THROW(prompt_positions(std::vector<int32_t>{kPad, kPad, kPad, kPad, kPad}, kPad, one, 2),
               Error);
  EXPECT_THROW(prompt_positions(std::vector<int32_t>{1, 2}, kPad, one, 2), Error);
  EXPECT_NO_THROW(prompt_positions(std::vector<int32_t>{kPad, kPad, kPad, kPad}, kPad, one, 2));
}

}  // namespace
}  // namespace tutti::vision

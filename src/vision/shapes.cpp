#include "vision/shapes.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/draws.h"

namespace tutti::vision {
namespace {

struct Colour {
  const char* name;
  std::array<uint8_t, 3> rgb;
};
constexpr Colour kColours[] = {{"red", {220, 40, 40}},
                               {"green", {40, 180, 60}},
                               {"blue", {50, 80, 220}},
                               {"yellow", {230, 210, 50}}};
constexpr const char* kShapes[] = {"circle", "square", "triangle", "cross"};
constexpr const char* kPlaces[] = {"top left", "top right", "bottom left", "bottom right"};
constexpr int kKinds = 4;  // of colours, of shapes, of places

struct Thing {
  int colour = 0, shape = 0, place = 0;
};

// One combination of every colour and of every shape.
bool held_out(int colour, int shape) { return (colour + 1) % kKinds == shape; }

bool has_held_out(const std::vector<Thing>& things) {
  for (const Thing& t : things) {
    if (held_out(t.colour, t.shape)) return true;
  }
  return false;
}

// Whether the point (x, y) of [-1, 1]^2 belongs to the shape.
bool inside(int shape, double x, double y) {
  switch (shape) {
    case 0:
      return x * x + y * y <= 1;
    case 1:
      return std::max(std::abs(x), std::abs(y)) <= 0.85;
    case 2:
      return y <= 0.8 && 2 * std::abs(x) <= y + 1;
    default:
      return std::min(std::abs(x), std::abs(y)) <= 0.3;
  }
}

void paint(Image& image, const Thing& thing, Draws& draws) {
  const int quarter = image.width / 2;
  const double radius = quarter * double(draws.uniform(0.28f, 0.42f));
  const auto centre = [&](int which) {
    const double slack = quarter / 2.0 - radius - 1;
    return which * quarter + quarter / 2.0 + double(draws.uniform(-1, 1)) * slack;
  };
  const double cx = centre(thing.place % 2), cy = centre(thing.place / 2);
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      const double u = (x + 0.5 - cx) / radius, v = (y + 0.5 - cy) / radius;
      if (std::abs(u) > 1 || std::abs(v) > 1 || !inside(thing.shape, u, v)) continue;
      uint8_t* pixel = image.rgb.data() + (size_t(y) * size_t(image.width) + size_t(x)) * 3;
      for (size_t c = 0; c < 3; ++c) pixel[c] = kColours[thing.colour].rgb[c];
    }
  }
}

Image render(const std::vector<Thing>& things, Draws& draws) {
  const int side = 56 + 28 * draws.below(3);
  const auto grey = uint8_t(draws.below(60));
  Image image{side, side, std::vector<uint8_t>(size_t(side) * size_t(side) * 3, grey)};
  for (const Thing& thing : things) paint(image, thing, draws);
  return image;
}

std::vector<Thing> draw_things(int count, Draws& draws) {
  std::vector<int> places{0, 1, 2, 3};
  draws.shuffle(places);
  std::vector<Thing> things;
  for (int i = 0; i < count; ++i) {
    things.push_back({draws.below(kKinds), draws.below(kKinds), places[size_t(i)]});
  }
  return things;
}

int count_of(const std::vector<Thing>& things, int Thing::* part, int value) {
  int n = 0;
  for (const Thing& t : things) n += t.*part == value;
  return n;
}

int count_both(const std::vector<Thing>& things, const Thing& like) {
  int n = 0;
  for (const Thing& t : things) n += t.colour == like.colour && t.shape == like.shape;
  return n;
}

std::string caption(std::vector<Thing> things) {
  std::ranges::sort(things, {}, &Thing::place);
  std::string out;
  for (const Thing& t : things) {
    out += (out.empty() ? "" : ", ") + std::string(kColours[t.colour].name) + " " +
           kShapes[t.shape] + " " + kPlaces[t.place];
  }
  return out;
}

// Asks about `things`, about things[0] where the question is about one; false when it would not be
// clear, or a comparison's answer is not the one that is wanted.
bool ask(const std::vector<Thing>& things, bool wants_more, Draws& draws, ShapeProblem& p) {
  const Thing& one = things[0];
  const std::string colour = kColours[one.colour].name, shape = kShapes[one.shape],
                    place = kPlaces[one.place];
  switch (p.kind) {
    case Question::kCount: {
      const bool by_colour = draws.below(2) == 0;
      const int value = draws.below(kKinds);
      p.question = std::string("count ") + (by_colour ? kColours[value].name : kShapes[value]);
      p.answer =
          std::to_string(count_of(things, by_colour ? &Thing::colour : &Thing::shape, value));
      return true;
    }
    case Question::kColour:
      p.question = "colour " + shape;
      p.answer = colour;
      return count_of(things, &Thing::shape, one.shape) == 1;
    case Question::kPlace:
      p.question = "place " + colour + " " + shape;
      p.answer = place;
      return count_both(things, one) == 1;
    case Question::kCompare: {
      const int a = draws.below(kKinds), b = (a + 1 + draws.below(kKinds - 1)) % kKinds;
      p.question = std::string("more ") + kColours[a].name + " than " + kColours[b].name;
      const bool more = count_of(things, &Thing::colour, a) > count_of(things, &Thing::colour, b);
      p.answer = more ? "yes" : "no";
      return more == wants_more;
    }
    case Question::kDescribe:
      p.question = "json";
      p.answer =
          R"({"shape":")" + shape + R"(","colour":")" + colour + R"(","place":")" + place + R"("})";
      return things.size() == 1;
    case Question::kCaption:
      p.question = "caption";
      p.answer = caption(things);
      return true;
  }
  return false;
}

// Whether a comparison shall be answered by "yes". Chosen before pictures are drawn and refused: as
// many of one answer as of the other.
bool choose_kind(Draws& draws, ShapeProblem& p) {
  p.kind = Question(draws.below(kQuestions));
  return p.kind == Question::kCompare && draws.below(2) == 0;
}

// Fills in all but the image, and gives what shall be painted.
std::vector<Thing> first_question(ShapeSplit split, Draws& draws, ShapeProblem& p) {
  const bool wants_more = choose_kind(draws, p);
  for (;;) {
    const int count = p.kind == Question::kDescribe ? 1 : 1 + draws.below(kKinds);
    std::vector<Thing> things = draw_things(count, draws);
    const bool wanted = split == ShapeSplit::kCombinations
                            ? held_out(things[0].colour, things[0].shape)
                            : !has_held_out(things);
    if (wanted && ask(things, wants_more, draws, p)) return things;
  }
}

}  // namespace

std::string name(Question question) {
  constexpr const char* kNames[kQuestions] = {"count",   "colour",   "place",
                                              "compare", "describe", "caption"};
  return kNames[size_t(question)];
}

ShapeProblem shape_problem(uint64_t seed, ShapeSplit split, uint64_t index) {
  return shape_dialogue(seed, split, index, 1).front();
}

std::vector<ShapeProblem> shape_dialogue(uint64_t seed, ShapeSplit split, uint64_t index,
                                         int count) {
  DrawKey key;
  key.seed = seed;
  key.purpose = Purpose::kProblem;
  key.request = uint32_t(split);
  key.path = uint32_t(index >> 32);
  key.position = uint32_t(index);
  Draws draws(key);
  std::vector<ShapeProblem> problems(1);
  std::vector<Thing> things = first_question(split, draws, problems[0]);
  problems[0].image = render(things, draws);
  // Many pictures have fewer questions than are wanted.
  for (int tries = 0; tries < 8 * count && int(problems.size()) < count; ++tries) {
    // Held out is what the first thing is: questions stay about it.
    if (split != ShapeSplit::kCombinations)
      std::swap(things[0], things[size_t(draws.below(int(things.size())))]);
    ShapeProblem next;
    const bool wants_more = choose_kind(draws, next);
    if (!ask(things, wants_more, draws, next)) continue;
    const bool known = std::ranges::any_of(
        problems, [&](const ShapeProblem& p) { return p.question == next.question; });
    if (known) continue;
    next.image = problems[0].image;
    problems.push_back(std::move(next));
  }
  return problems;
}

std::vector<std::string> held_out_combinations() {
  std::vector<std::string> out;
  for (int c = 0; c < kKinds; ++c) {
    for (int s = 0; s < kKinds; ++s) {
      if (held_out(c, s)) out.push_back(std::string(kColours[c].name) + " " + kShapes[s]);
    }
  }
  return out;
}

}  // namespace tutti::vision

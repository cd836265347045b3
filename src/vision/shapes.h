// Questions about rendered shapes, drawn without end from a seed: what small models that read
// images are trained on. Some combinations of colour and shape are never trained.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vision/image.h"

namespace tutti::vision {

enum class Question : uint8_t {
  kCount,     // "count red" -> "2"; of a colour or a shape
  kColour,    // "colour circle" -> "red"; of the one shape of its kind
  kPlace,     // "place red circle" -> "top left"
  kCompare,   // "more red than blue" -> "yes" | "no"
  kDescribe,  // "json": of a picture with one shape ->
              // {"shape":"circle","colour":"red","place":"top left"}
  kCaption,   // "caption" -> "red circle top left, blue cross bottom right"; row by row
};
inline constexpr int kQuestions = 6;
std::string name(Question question);  // "count", "colour", …

struct ShapeProblem {
  Image image;  // square, 56, 84 or 112 pixels
  Question kind = Question::kCount;
  std::string question, answer;
};

enum class ShapeSplit : uint8_t {
  kTrain,         // no picture has a held-out combination
  kTest,          // likewise, from another stream
  kCombinations,  // every picture has one, and colour, place and json questions are about it
};

// Problem number `index` of a split: a function of the arguments alone.
ShapeProblem shape_problem(uint64_t seed, ShapeSplit split, uint64_t index);

// Up to `count` different questions about one picture, the first of them problem number `index`: a
// picture costs a tower as much as a question costs a small language model.
std::vector<ShapeProblem> shape_dialogue(uint64_t seed, ShapeSplit split, uint64_t index,
                                         int count);

// What is never trained, as "red circle".
std::vector<std::string> held_out_combinations();

}  // namespace tutti::vision

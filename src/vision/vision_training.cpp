#include "vision/vision_training.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/json_text.h"
#include "train/strict_object.h"

namespace tutti::vision {
namespace {

using nlohmann::json;
using train::StrictObject;

std::vector<int> integers(const json& object, const char* key, StrictObject& o, int low, int high) {
  if (!o.has(key)) o.bad(key, "is missing");
  const json& list = object.at(key);
  std::vector<int> out;
  for (const json& value : list) {
    const bool fits =
        value.is_number_integer() && value.get<int64_t>() >= low && value.get<int64_t>() <= high;
    if (!list.is_array() || !fits) o.bad(key, "is no list of numbers in range");
    out.push_back(value.get<int>());
  }
  return out;
}

void read_text(const json& object, StrictObject o, VisionRecipe& r) {
  r.layers = int(o.integer("layers", 1, 4096));
  r.hidden = int(o.integer("hidden", 16, 1 << 16));
  r.heads = int(o.integer("heads", 1, 1024));
  r.kv_heads = int(o.integer("kv_heads", 1, 1024, r.heads));
  r.intermediate = int(o.integer("intermediate", 1, 1 << 18));
  r.context = int(o.integer("context", 8, 1 << 20));
  r.sections = integers(object, "mrope_section", o, 0, 4096);
  r.rope_base = o.number("rope_theta", 1, 1e9, 10000);
  o.finish();
}

void read_tower(const json& object, StrictObject o, VisionConfig& c) {
  c.depth = int(o.integer("depth", 1, 4096));
  c.hidden = int(o.integer("hidden", 4, 1 << 16));
  c.heads = int(o.integer("heads", 1, 1024));
  c.intermediate = int(o.integer("intermediate", 1, 1 << 18));
  c.out_hidden = int(o.integer("out_hidden", 1, 1 << 16));
  c.window = int(o.integer("window", 1, 64));
  c.full.assign(size_t(c.depth), false);
  for (const int block : integers(object, "full", o, 0, c.depth - 1)) c.full[size_t(block)] = true;
  c.preprocessing.min_pixels = o.integer("min_pixels", 784, kMaxPixels, 784);
  c.preprocessing.max_pixels = o.integer("max_pixels", 784, kMaxPixels, 112 * 112);
  if (c.hidden % c.heads != 0 || c.head_dim() % 4 != 0) {
    o.bad("heads", "do not cut \"hidden\" into heads of a multiple of 4");
  }
  o.finish();
}

// `before`: the phases above it.
TrainingPhase read_phase(StrictObject o, const std::vector<TrainingPhase>& before) {
  TrainingPhase p;
  p.name = o.text("name");
  if (p.name.empty() || p.name.find('/') != std::string::npos || p.name.front() == '.') {
    o.bad("name", "is no name of a folder");
  }
  std::vector<std::string> known{kUntrained};
  for (const TrainingPhase& phase : before) known.push_back(phase.name);
  if (std::ranges::find(known, p.name) != known.end()) o.bad("name", "is taken; give another");
  if (o.has("from")) p.from = o.choice("from", known);
  p.causal = o.choice("attention", {"causal", "full"}) == "causal";
  p.answer_padding = o.flag("answer_padding", true);
  p.trained = o.choices("train", {"tower", "projector", "text"}, {"tower", "projector", "text"});
  p.steps = o.integer("steps", 1, int64_t(1) << 40);
  p.learning_rate = o.number("learning_rate", 1e-12, 10);
  p.warmup = o.number("warmup", 0, 1, 0.03);
  p.clip = o.number("clip", 0, 1e6, 1);
  o.finish();
  return p;
}

}  // namespace

VisionRecipe parse_vision_recipe(std::string_view text, const std::string& place) {
  const json value = formats::parse_json(text, place);
  StrictObject o(value, place);
  VisionRecipe r;
  r.name = o.text("name");
  r.seed = uint64_t(o.integer("seed", 0, INT64_MAX, 1));
  read_text(o.has("text") ? value.at("text") : json::object(), o.object("text"), r);
  read_tower(o.has("vision") ? value.at("vision") : json::object(), o.object("vision"), r.vision);
  r.vision.text_hidden = r.hidden;
  r.characters = o.text("characters");
  r.words = o.texts("words");
  r.sequences = int(o.integer("sequences", 1, 1 << 16));
  r.questions = int(o.integer("questions", 1, r.sequences, 1));
  r.bf16 = o.flag("bf16", false);
  if (!o.has("phases") || !value.at("phases").is_array() || value.at("phases").empty()) {
    o.bad("phases", "is no list of phases");
  }
  for (const json& phase : value.at("phases")) {
    r.phases.push_back(read_phase(StrictObject(phase, place + ": phases"), r.phases));
  }
  o.finish();
  return r;
}

}  // namespace tutti::vision

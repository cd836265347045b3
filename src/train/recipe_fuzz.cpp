// Any bytes as a recipe: an Error, or a recipe whose numbers hold what its readers rely on.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "train/model_shape.h"
#include "train/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  try {
    const train::Recipe r =
        train::parse_recipe({reinterpret_cast<const char*>(data), size}, "recipe.json", "folder");
    const bool sound = r.steps >= 1 && r.sequences >= 1 && r.accumulate >= 1 &&
                       r.data.length >= 2 && r.loss.low < r.loss.high &&
                       r.model.from.empty() == (r.model.layers > 0) &&
                       r.tokenizer.from.empty() != r.tokenizer.characters.empty();
    if (!sound) std::abort();
    const double factor = train::schedule_factor(r.schedule, r.steps - 1, r.steps);
    if (!(factor >= 0 && factor <= 1)) std::abort();
    if (!r.model.from.empty()) return 0;
    train::ModelShape shape;
    shape.family = r.model.family;
    shape.layers = r.model.layers;
    shape.hidden = r.model.hidden;
    shape.heads = r.model.heads;
    shape.kv_heads = r.model.kv_heads;
    shape.head_dim = r.model.head_dim;
    shape.intermediate = r.model.intermediate;
    shape.context = r.model.context;
    shape.vocab = 16;
    shape.rope_theta = r.model.rope_theta;
    shape.norm_epsilon = r.model.norm_epsilon;
    shape.tied_head = r.model.tied_head;
    shape.block = r.model.block;
    shape.mask_token = 15;
    train::shaped_config(shape);
  } catch (const Error&) {
  }
  return 0;
}

// For tests: a training of some kilobytes.
#pragma once

namespace tutti::vision {

inline constexpr const char* kTinyRecipe = R"({
  "name": "tiny", "seed": 3,
  "text": {"layers": 1, "hidden": 32, "heads": 2, "intermediate": 48, "context": 128, "mrope_section": [4, 2, 2]},
  "vision": {"depth": 2, "hidden": 16, "heads": 2, "intermediate": 24, "window": 2, "full": [1], "out_hidden": 24},
  "characters": "abcdefghijklmnopqrstuvwxyz0123456789 ?{}\":,",
  "sequences": 4,
  "phases": [{"name": "align", "attention": "causal", "train": ["projector"], "steps": 2, "learning_rate": 1e-2},
             {"name": "instruct", "attention": "causal", "train": ["projector", "text"], "steps": 2, "learning_rate": 1e-2},
             {"name": "diffusion", "attention": "full", "train": ["text"], "steps": 2, "learning_rate": 1e-2}]
})";

}  // namespace tutti::vision

// The JSON files of a model folder: config.json, the templates of tokenizer_config.json, the index.
#include <cstdlib>

#include "base/error.h"
#include "formats/json_text.h"
#include "formats/model_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti::formats;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const nlohmann::json value = parse_json(text, "fuzz.json");
    if (parse_json(value.dump(), "again.json") != value) std::abort();
    try {
      parse_chat_templates(value, "fuzz.json");
    } catch (const tutti::Error&) {  // the weight map is still worth a try
    }
    for (const auto& [tensor, file] : parse_weight_map(text, "fuzz.json")) {
      if (file.find('/') != std::string::npos) std::abort();
    }
  } catch (const tutti::Error&) {
  }
  return 0;
}

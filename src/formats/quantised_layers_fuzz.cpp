// The first line is a "quantization_config", the rest a safetensors file with layers of its kind:
// an Error, or grids that hold what they say.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "formats/json_text.h"
#include "formats/quantised_layers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti::formats;
  const uint8_t* const end = data + size;
  const uint8_t* const line = std::find(data, end, uint8_t('\n'));
  if (line == end) return 0;
  try {
    const QuantisedScheme scheme = parse_quantised_scheme(
        parse_json({reinterpret_cast<const char*>(data), size_t(line - data)}, "fuzz.json"),
        "fuzz.json");
    const auto weights =
        Safetensors::parse(std::as_bytes(std::span(line + 1, end)), "fuzz.safetensors");
    for (const std::string& layer : quantised_layers(weights, scheme)) {
      try {
        const tutti::tensor::Grid grid = read_layer(weights, scheme, layer);
        tutti::tensor::check_grid(grid);
        const auto stored = tutti::tensor::stored(grid);
        if (stored.rows.size() != size_t(grid.out) * row_bytes(stored.type, grid.in)) std::abort();
      } catch (const tutti::Error& error) {
        if (error.kind() == tutti::ErrorKind::kUsage) std::abort();  // not the file's fault
      }
    }
  } catch (const tutti::Error&) {
  }
  return 0;
}

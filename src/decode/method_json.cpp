#include "decode/method_json.h"

namespace tutti::decode {

nlohmann::ordered_json json_of(const Method& method) {
  nlohmann::ordered_json options = nlohmann::ordered_json::array();
  for (const MethodOption& o : method.options)
    options.push_back({{"name", o.name}, {"default", o.default_value}, {"help", o.help}});
  return {{"name", method.name},
          {"source", method.source},
          {"needs", method.needs},
          {"guarantee", name(method.guarantee)},
          {"options", std::move(options)}};
}

}  // namespace tutti::decode

// tutti methods: the table of methods.
#include "decode/method.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "decode/method_json.h"

namespace tutti::cli {

void add_methods(CLI::App& app) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command =
      app.add_subcommand("methods", "list the methods: source, needs, guarantee, options");
  command->add_flag("--json", *json, "one JSON document on stdout");
  command->callback([json] {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const auto& m : decode::methods()) {
      list.push_back(decode::json_of(m));
      if (*json) continue;
      std::printf("%-12s %-18s %s; needs %s\n", std::string(m.name).c_str(),
                  std::string(decode::name(m.guarantee)).c_str(), std::string(m.source).c_str(),
                  std::string(m.needs).c_str());
      for (const auto& o : m.options) {
        std::printf("  -o %s=%s  %s\n", std::string(o.name).c_str(),
                    std::string(o.default_value).c_str(), std::string(o.help).c_str());
      }
    }
    if (*json) std::printf("%s\n", list.dump().c_str());
  });
}

}  // namespace tutti::cli

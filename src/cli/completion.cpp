// tutti completion: a script that completes commands and options in a shell.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "cli/option_table.h"

namespace tutti::cli {

void add_completion(CLI::App& app) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "completion",
      "a script that completes commands and options: source <(tutti completion bash)");
  command->add_option("shell", *shell, "bash")->required()->check(CLI::IsMember({"bash"}));
  command->callback([&app, shell] { std::cout << bash_completion(app); });
}

}  // namespace tutti::cli

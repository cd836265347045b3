// The options of a command as data: what --help prints is also what a config file may say, what
// completion offers, and what /openapi.json tells.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace tutti::cli {

struct OptionRow {
  std::vector<std::string> flags;  // "--port", "-p"; long ones first
  std::string environment;         // the variable that may hold it, or empty
  std::string default_value;       // or empty
  std::string help;
  std::vector<std::string> choices;  // if it is one of some words
  bool is_flag = false;              // takes no value
  bool many = false;                 // may be repeated

  // The long name without dashes, as a config file has it.
  std::string key() const;
  bool answers_to(const std::string& key) const;
};

// In the order of --help, without --help itself.
std::vector<OptionRow> option_table(const CLI::App& command);

// For a command with a --config option: puts what the file of it (or of TUTTI_CONFIG) says before
// the other arguments, which begin with the command's name. What these, or a variable that is set,
// say of an option goes before what the file says of it, also where an option may be repeated.
// Throws Error(kUsage | kNotFound) naming file and key.
void apply_config(const CLI::App& app, std::vector<std::string>& arguments);

// A script for bash that completes commands, options and their words.
std::string bash_completion(const CLI::App& app);

}  // namespace tutti::cli

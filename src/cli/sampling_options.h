// The command-line options of sampling and stopping, shared by run and chat.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "decode/generation.h"

namespace CLI {
class App;
}

namespace tutti::cli {

struct SamplingOptions {
  decode::GenerationOptions generation;
  std::string order;
  std::vector<std::string> bias;             // ID:VALUE, ID+VALUE, ID-VALUE
  std::vector<std::string> method_settings;  // key=value
  std::string seed = "-1";

  void add_to(CLI::App& app);
  // The options as the user gave them. Throws Error(kUsage).
  decode::GenerationOptions resolve() const;
};

// Options of methods, of settings key=value; the last of a key counts. Throws Error(kUsage).
std::map<std::string, std::string> method_options_of(const std::vector<std::string>& settings);

}  // namespace tutti::cli

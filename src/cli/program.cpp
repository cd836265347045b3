#include "cli/program.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/option_table.h"

namespace tutti::cli {
namespace {

// A full disk behind standard output must not look like success.
void flush_output() {
  std::cout.flush();
  errno = 0;
  if (std::fflush(stdout) == 0 && std::cout && !std::ferror(stdout)) return;
  throw Error(ErrorKind::kSystem,
              std::string("standard output: ") +
                  (errno ? std::strerror(errno) : "cannot be written; is the disk full?"));
}

int report(const char* what, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "tutti: %s\n", what);
  return code;
}

}  // namespace

int program(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_DFL);  // "tutti … | head -1" ends without a word, as other filters do
  CLI::App app{"Tutti runs, measures and inspects models, with parallel methods of AI.", "tutti"};
  app.set_version_flag("-V,--version", "tutti " TUTTI_VERSION);
  app.require_subcommand(1);
  app.option_defaults()->multi_option_policy(
      CLI::MultiOptionPolicy::TakeLast);  // scripts append what they change
  app.get_formatter()->column_width(34);
  add_run(app);
  add_serve(app);
  add_chat(app);
  add_contexts(app);
  add_bench(app);
  add_traffic(app);
  add_eval(app);
  add_inspect(app);
  add_tokenize(app);
  add_image(app);
  add_quantize(app);
  add_train(app);
  add_train_filter(app);
  add_train_vision(app);
  add_ppd(app);
  add_methods(app);
  add_infill(app);
  add_score(app);
  add_embed(app);
  add_completion(app);
  app.footer(
      "Models: a .gguf file, a Hugging Face folder, or a short name (smollm2, gemma3-270m).\n"
      "Exit codes: 0, 1 at run time, 2 usage. 'tutti COMMAND --help' lists the options of a "
      "command.");
  if (argc <= 1) {
    std::fputs(app.help().c_str(), stderr);
    return 2;
  }
  // llama.cpp's long options with one dash, which CLI11 takes for a cluster of short ones.
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    arguments.emplace_back(word == "-sys"  ? "--system"
                           : word == "-md" ? "--draft-model"
                           : word == "-np" ? "--parallel"
                                           : word);
  }
  if (argv[1][0] != '-') {
    std::string names;
    bool known = false;
    for (const CLI::App* command : app.get_subcommands({})) {
      known = known || command->check_name(argv[1]);
      names += (names.empty() ? "" : ", ") + command->get_name();
    }
    if (!known)
      return report(("unknown command " + std::string(argv[1]) + "; commands are " + names).c_str(),
                    2);
  }
  try {
    apply_config(app, arguments);
    std::ranges::reverse(arguments);  // as CLI11 takes them
    app.parse(std::move(arguments));
    flush_output();
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      app.exit(error);
      return 0;
    }
    return report(
        (std::string(error.what()) + "; see 'tutti --help' or 'tutti COMMAND --help'").c_str(), 2);
  } catch (const Error& error) {
    return report(error.what(), error.exit_code());
  } catch (const std::exception& error) {
    return report(error.what(), 1);
  }
}

}  // namespace tutti::cli

// tutti: run, measure and inspect models. Exit codes: 0, 1 for what went wrong at run time, 2 for usage.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>

#include "base/error.h"
#include "cli/commands.h"

int main(int argc, char** argv) {
  using namespace tutti;
  std::signal(SIGPIPE, SIG_IGN);  // a reader that goes away is an error of the write, not a silent death
  CLI::App app{"Tutti runs, trains and serves parallel methods of AI.", "tutti"};
  app.set_version_flag("--version", "tutti " TUTTI_VERSION);
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::help);
  app.get_formatter()->column_width(34);
  cli::add_run(app);
  cli::add_chat(app);
  cli::add_bench(app);
  cli::add_eval(app);
  cli::add_inspect(app);
  cli::add_tokenize(app);
  cli::add_quantize(app);
  cli::add_methods(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fprintf(stderr, "tutti: %s; see 'tutti --help' or 'tutti COMMAND --help'\n", error.what());
    return 2;
  } catch (const Error& error) {
    std::fprintf(stderr, "tutti: %s\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tutti: %s\n", error.what());
    return 1;
  }
}

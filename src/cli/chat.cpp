// tutti chat: a conversation in the terminal. Ctrl-C stops the answer, not the program.
#include <editline/readline.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/sampling_options.h"
#include "cli/session.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ChatOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::string system;
};

constexpr const char* kHelp =
    "/reset        forget the conversation\n"
    "/system TEXT  set the system message and start over\n"
    "/save FILE    write the conversation as JSON\n"
    "/stats        tokens and speed of the last answer\n"
    "/quit         leave (or Ctrl-D)\n"
    "Ctrl-C stops an answer; at the prompt it clears the line.\n";

// One line from the terminal with editing keys and history, or from a pipe. nullopt at the end.
std::optional<std::string> read_line(bool terminal) {
  if (!terminal) {
    std::string line;
    return std::getline(std::cin, line) ? std::optional(line) : std::nullopt;
  }
  char* typed = ::readline("> ");
  if (!typed) return std::nullopt;
  std::string line = typed;
  std::free(typed);
  if (!line.empty()) ::add_history(line.c_str());
  return line;
}

class Chat {
 public:
  explicit Chat(const ChatOptions& options) : session_(options.model), options_(options) {
    if (!session_.has_chat_template()) {
      throw Error(ErrorKind::kUnsupported, "model " + options.model.model +
                                               ": has no chat template (a base model); use 'tutti run --raw -p TEXT'");
    }
    reset(options.system);
  }

  void loop() {
    const bool terminal = isatty(STDIN_FILENO) != 0;
    if (terminal) std::fputs("/help lists the commands\n", stderr);
    std::signal(SIGINT, SIG_IGN);  // while answering, Asio's signal set takes it; the editor sets its own
    while (const auto line = read_line(terminal)) {
      if (line->empty()) continue;
      if (line->front() == '/') {
        if (!command(*line)) return;
      } else {
        answer(*line);
      }
    }
  }

 private:
  void reset(const std::string& system) {
    messages_ = Json::array();
    if (!system.empty()) messages_.push_back({{"role", "system"}, {"content", system}});
  }

  // False: leave.
  bool command(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string name = line.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
    if (name == "/quit" || name == "/exit") return false;
    if (name == "/reset") {
      reset(options_.system);
    } else if (name == "/system") {
      options_.system = rest;
      reset(rest);
    } else if (name == "/save" && !rest.empty()) {
      write_file_atomically(rest, messages_.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    } else if (name == "/stats") {
      std::fprintf(stderr, "%s\n", stats_.c_str());
    } else {
      std::fputs(kHelp, stderr);
    }
    return true;
  }

  void answer(const std::string& text) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    engine::Engine& engine = session_.engine();
    const auto request = engine.new_request();
    std::string said;
    std::exception_ptr error;
    bool stopped = false;
    asio::signal_set interrupt(engine.io(), SIGINT);
    interrupt.async_wait([&](const boost::system::error_code& code, int) {
      if (code) return;
      stopped = true;
      engine.cancel(*request);
    });
    const auto start = std::chrono::steady_clock::now();
    size_t tokens = 0;
    try {
      const auto prompt = session_.encode_chat(messages_);
      engine.spawn(
          request,
          [&]() -> Task<void> {
            const auto completions = co_await decode::generate(
                engine, session_.tokenizer(), request, prompt, options_.sampling.resolve(), [&](const decode::Piece& piece) {
                  said += piece.text;
                  tokens += piece.ids.size();
                  std::fwrite(piece.text.data(), 1, piece.text.size(), stdout);
                  std::fflush(stdout);
                });
            said = completions.front().text;
          },
          [&](std::exception_ptr e) {
            error = e;
            interrupt.cancel();
          });
      engine.run();
      if (error && !stopped) std::rethrow_exception(error);
    } catch (const Error& failure) {
      std::fprintf(stderr, "%s\n", failure.what());
      messages_.erase(messages_.size() - 1);
      return;
    }
    std::fputs(stopped ? " [stopped]\n" : "\n", stdout);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const auto& s = request->statistics;
    stats_ = std::to_string(s.prompt_tokens) + " prompt tokens (" + std::to_string(s.cached_tokens) +
             " cached), " + std::to_string(tokens) + " generated in " + std::to_string(seconds).substr(0, 5) + " s";
    messages_.push_back({{"role", "assistant"}, {"content", said}});
  }

  Session session_;
  ChatOptions options_;
  Json messages_;
  std::string stats_ = "no answer yet";
};

}  // namespace

void add_chat(CLI::App& app) {
  auto o = std::make_shared<ChatOptions>();
  o->sampling.generation.max_tokens = -1;
  o->sampling.generation.sampling.temperature = 0.7f;
  CLI::App* command = app.add_subcommand("chat", "talk with a model: history, editing keys, Ctrl-C stops the answer");
  o->model.add_to(*command);
  o->sampling.add_to(*command);
  command->add_option("--system", o->system, "system message");
  command->callback([o] { Chat(*o).loop(); });
}

}  // namespace tutti::cli

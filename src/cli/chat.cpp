// tutti chat: a conversation in the terminal. Ctrl-C stops the answer, not the program.
#include <histedit.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/signal_set.hpp>
#include <cerrno>
#include <clocale>
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
#include "decode/method.h"

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
    "A line that ends with \\ goes on in the next. Ctrl-C stops an answer; at the prompt it clears "
    "the line.\n";

// Lines from a terminal, with editing keys and history, or from a pipe.
class Lines {
 public:
  Lines() {
    if (isatty(STDIN_FILENO) == 0) return;
    // Editing works on characters, so on the user's encoding; without one, UTF-8.
    const char* locale = std::setlocale(LC_CTYPE, "");
    if (!locale || std::string_view(locale) == "C" || std::string_view(locale) == "POSIX") {
      std::setlocale(LC_CTYPE, "C.UTF-8");
    }
    FILE* screen = isatty(STDOUT_FILENO) ? stdout : stderr;
    editor_.reset(el_init("tutti", stdin, screen, stderr));
    history_.reset(history_init());
    if (!editor_ || !history_) {
      throw Error(ErrorKind::kSystem, "chat: the terminal cannot be edited on; pipe lines in");
    }
    HistEvent event;
    history(history_.get(), &event, H_SETSIZE, 1000);
    history(history_.get(), &event, H_SETUNIQUE, 1);
    el_set(editor_.get(), EL_HIST, history, history_.get());
    el_set(editor_.get(), EL_EDITOR, "emacs");
    el_set(editor_.get(), EL_CLIENTDATA, this);
    el_set(editor_.get(), EL_PROMPT, &Lines::prompt);
    el_set(editor_.get(), EL_BIND, "\\e[3~", "ed-delete-next-char", nullptr);
    el_source(editor_.get(), nullptr);  // ~/.editrc, if there is one
  }

  bool terminal() const { return editor_ != nullptr; }

  // nullopt at the end of the input. A line that ends with a backslash goes on in the next.
  std::optional<std::string> next() {
    std::string text;
    for (more_ = false;; more_ = true) {
      auto line = one();
      while (interrupted_) {  // Ctrl-C: what was typed is forgotten
        std::fputc('\n', stdout);
        text.clear();
        more_ = interrupted_ = false;
        line = one();
      }
      if (!line) return more_ ? std::optional(text) : std::nullopt;
      text += *line;
      if (!text.ends_with('\\')) return text;
      text.back() = '\n';
    }
  }

 private:
  static char* prompt(EditLine* editor) {
    static char kFirst[] = "> ", kMore[] = "| ";
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return static_cast<Lines*>(self)->more_ ? kMore : kFirst;
  }

  std::optional<std::string> one() {
    if (!terminal()) {
      std::string line;
      return std::getline(std::cin, line) ? std::optional(line) : std::nullopt;
    }
    int length = 0;
    errno = 0;
    const char* typed = el_gets(editor_.get(), &length);
    interrupted_ = !typed && errno == EINTR;
    if (!typed || length <= 0) return std::nullopt;
    std::string line(typed, size_t(length));
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    HistEvent event;
    if (!line.empty()) history(history_.get(), &event, H_ENTER, line.c_str());
    return line;
  }

  struct End {
    void operator()(EditLine* e) const { el_end(e); }
    void operator()(History* h) const { history_end(h); }
  };
  std::unique_ptr<History, End> history_;
  std::unique_ptr<EditLine, End> editor_;
  bool more_ = false;         // within a line that goes on
  bool interrupted_ = false;  // by a signal: the user's Ctrl-C
};

class Chat {
 public:
  explicit Chat(const ChatOptions& options)
      : session_(options.model),
        options_(options),
        sampling_(options.sampling.resolve()),
        ignore_interrupt_(session_.engine().io(), SIGINT) {
    if (!session_.has_chat_template()) {
      throw Error(ErrorKind::kUnsupported,
                  "model " + options.model.model +
                      ": has no chat template (a base model); use 'tutti run --raw -p TEXT'");
    }
    // Wrong options are wrong before the first question.
    engine::validate(sampling_.sampling, session_.model().config().vocab);
    if (sampling_.method != "auto") decode::find_method(sampling_.method);
    reset(options.system);
  }

  void loop() {
    Lines lines;
    if (lines.terminal()) std::fputs("/help lists the commands\n", stderr);
    while (const auto line = lines.next()) {
      if (line->empty()) continue;
      if (line->front() == '/') {
        if (!command(*line)) return;
      } else {
        answer(*line);
      }
    }
    if (lines.terminal()) std::fputc('\n', stdout);  // Ctrl-D leaves the cursor behind the prompt
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
      try {
        write_file_atomically(rest,
                              messages_.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
        std::fprintf(stderr, "%zu messages written to %s\n", messages_.size(), rest.c_str());
      } catch (const Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
      }
    } else if (name == "/stats") {
      std::fprintf(stderr, "%s\n", stats_.c_str());
    } else {
      std::fputs(kHelp, stderr);
    }
    return true;
  }

  // Runs handlers that are due, those of signals included.
  void settle() {
    asio::io_context& io = session_.engine().io();
    const auto work = asio::make_work_guard(io);  // else nobody looks for signals
    io.restart();
    io.poll();
  }

  void answer(const std::string& text) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    engine::Engine& engine = session_.engine();
    const auto request = engine.new_request();
    std::string said;
    std::exception_ptr error;
    bool stopped = false;
    settle();  // a Ctrl-C of before must not stop this answer
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
                engine, session_.tokenizer(), request, prompt, sampling_,
                [&](const decode::Piece& piece) {
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
      interrupt.cancel();
      settle();  // its handler refers to this answer
      if (error && !stopped) std::rethrow_exception(error);
    } catch (const Error& failure) {
      std::fprintf(stderr, "%s%s\n", failure.what(),
                   failure.kind() == ErrorKind::kLimit ? " (/reset forgets the conversation)" : "");
      messages_.erase(messages_.size() - 1);
      return;
    }
    std::fputs(stopped ? " [stopped]\n" : "\n", stdout);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const auto& s = request->statistics;
    stats_ = std::to_string(s.prompt_tokens) + " prompt tokens (" +
             std::to_string(s.cached_tokens) + " cached), " + std::to_string(tokens) +
             " generated in " + std::to_string(seconds).substr(0, 5) + " s, " +
             std::to_string(double(tokens) / seconds).substr(0, 5) + "/s";
    messages_.push_back({{"role", "assistant"}, {"content", said}});
  }

  Session session_;
  ChatOptions options_;
  decode::GenerationOptions sampling_;
  // Never waited for: as long as it is there, a Ctrl-C between two answers does nothing.
  asio::signal_set ignore_interrupt_;
  Json messages_;
  std::string stats_ = "no answer yet";
};

}  // namespace

void add_chat(CLI::App& app) {
  auto o = std::make_shared<ChatOptions>();
  o->sampling.generation.max_tokens = -1;
  o->sampling.generation.sampling.temperature = 0.7f;
  CLI::App* command = app.add_subcommand(
      "chat", "talk with a model: history, editing keys, Ctrl-C stops the answer");
  o->model.add_to(*command);
  o->sampling.add_to(*command);
  command->add_option("--system", o->system, "system message (also -sys)");
  command->callback([o] {
    if (o->sampling.generation.n != 1) {
      throw Error(ErrorKind::kUsage, "chat: gives one answer; --samples is for 'tutti run'");
    }
    Chat(*o).loop();
  });
}

}  // namespace tutti::cli

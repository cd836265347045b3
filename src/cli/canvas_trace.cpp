#include "cli/canvas_trace.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "cli/canvas_page.h"
#include "cli/json_text.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kColumns = 100;

Error unwritable(const std::string& path) {
  return Error(ErrorKind::kSystem,
               path + ": cannot be written; check the folder and its permissions");
}

}  // namespace

CanvasTrace::CanvasTrace(const CanvasTraceOptions& options, const text::Tokenizer& tokenizer)
    : options_(options), tokenizer_(tokenizer) {
  if (!options_.lines.empty()) {
    lines_.open(options_.lines, std::ios::trunc);
    if (!lines_) throw unwritable(options_.lines);
  }
}

std::string CanvasTrace::text_of(int32_t token) const {
  return tokenizer_.decode(std::span(&token, 1));
}

void CanvasTrace::show(const decode::CanvasStep& step) {
  if (!options_.lines.empty() || !options_.page.empty()) {
    Json written = Json::array();
    for (const auto& w : step.written) {
      written.push_back({{"position", w.position - step.prompt},
                         {"id", w.token},
                         {"text", text_of(w.token)},
                         {"p", std::exp(double(w.log_probability))}});
    }
    const Json line{{"choice", step.choice},
                    {"forward", step.forward},
                    {"kind", step.kind},
                    {"rows", step.rows},
                    {"answer", int(step.tokens.size()) - step.prompt},
                    {"written", std::move(written)}};
    const std::string text = print_json(line);
    if (lines_.is_open()) lines_ << text << '\n';
    // "</script>" in a text would end the page's script.
    if (!options_.page.empty()) {
      page_ += page_.empty() ? "" : ",\n";
      for (const char c : text) page_ += c == '<' ? std::string("\\u003c") : std::string(1, c);
    }
  }
  if (options_.live && step.choice == 0) draw(step);
}

// The answer so far: what is open as a dot, what this forward wrote in bold.
void CanvasTrace::draw(const decode::CanvasStep& step) {
  std::string out;
  if (drawn_lines_ > 0) out += "\x1b[" + std::to_string(drawn_lines_) + "A\r\x1b[J";
  int column = 0;
  drawn_lines_ = 1;
  const auto put = [&](const std::string& text, int width) {
    if (column + width > kColumns) {
      out += '\n';
      ++drawn_lines_;
      column = 0;
    }
    out += text;
    column += width;
  };
  int open = 0;
  for (int p = step.prompt; p < int(step.tokens.size()); ++p) {
    const int32_t token = step.tokens[size_t(p)];
    if (token == step.mask) {
      put("\x1b[2m\u00b7\x1b[0m", 1);
      ++open;
      continue;
    }
    std::string text = text_of(token);
    std::ranges::replace(text, '\n', ' ');
    std::erase_if(text, [](char c) { return c >= 0 && c < ' '; });
    const bool fresh =
        std::ranges::any_of(step.written, [&](const auto& w) { return w.position == p; });
    const int width = int(std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
    put(fresh ? "\x1b[1;32m" + text + "\x1b[0m" : text, width);
  }
  char line[120];
  std::snprintf(line, sizeof line, "\n\x1b[2mforward %llu (%.*s, %d rows), %d of %d open\x1b[0m\n",
                static_cast<unsigned long long>(step.forward), int(step.kind.size()),
                step.kind.data(), step.rows, open, int(step.tokens.size()) - step.prompt);
  out += line;
  drawn_lines_ += 1;
  std::fputs(out.c_str(), stderr);
}

void CanvasTrace::close() {
  if (lines_.is_open()) {
    lines_.close();
    if (!lines_) throw unwritable(options_.lines);
  }
  if (!options_.page.empty()) write_file_atomically(options_.page, canvas_page(page_));
}

}  // namespace tutti::cli

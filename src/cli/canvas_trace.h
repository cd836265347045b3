// What a method that fills in a sequence out of order did, forward by forward: live on the
// terminal, as a file of JSON lines, as a page to step through.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "decode/generation.h"
#include "text/tokenizer.h"

namespace tutti::cli {

struct CanvasTraceOptions {
  std::string lines;  // a file; empty: none
  std::string page;
  bool live = false;  // draw on stderr
};

class CanvasTrace {
 public:
  // Throws Error(kSystem) when a file cannot be written.
  CanvasTrace(const CanvasTraceOptions& options, const text::Tokenizer& tokenizer);
  void show(const decode::CanvasStep& step);
  // Writes the page; the live view ends with a line of its own.
  void close();

 private:
  void draw(const decode::CanvasStep& step);
  std::string text_of(int32_t token) const;

  CanvasTraceOptions options_;
  const text::Tokenizer& tokenizer_;
  std::ofstream lines_;
  std::string page_;  // the page's steps, JSON objects apart by commas
  int drawn_lines_ = 0;
};

}  // namespace tutti::cli

// Text that a user names: a file, a pipe, or "-" for standard input.
#pragma once

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "base/error.h"
#include "base/files.h"

namespace tutti::cli {

// The whole text, byte for byte. Throws Error(kNotFound | kLimit | kSystem) naming the file.
inline std::string read_input(const std::string& path) {
  namespace fs = std::filesystem;
  constexpr size_t kMost = size_t(1) << 30;
  std::error_code ignored;
  const bool standard = path == "-";
  if (!standard && (!fs::exists(path, ignored) || fs::is_regular_file(path, ignored)))
    return read_file(path, kMost);
  if (!standard && fs::is_directory(path, ignored)) {
    throw Error(ErrorKind::kSystem, path + ": is a folder; name a file");
  }
  std::ifstream file;
  if (!standard) file.open(path, std::ios::binary);
  std::istream& in = standard ? std::cin : file;
  std::string text;
  char block[65536];
  while (in.read(block, sizeof block) || in.gcount() > 0) {
    text.append(block, size_t(in.gcount()));
    if (text.size() > kMost) throw Error(ErrorKind::kLimit, path + ": is longer than 1 GiB");
  }
  if (in.bad() || (!standard && !file.is_open()))
    throw Error(ErrorKind::kSystem, path + ": cannot be read");
  return text;
}

}  // namespace tutti::cli

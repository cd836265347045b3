// For tests: a folder that goes with the scope.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace tutti::formats {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tutti-XXXXXX").string();
    const char* made = ::mkdtemp(pattern.data());
    if (!made) throw std::filesystem::filesystem_error("mkdtemp", pattern, std::error_code());
    path_ = made;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace tutti::formats

// A folder of packed weights that programs of one user share.
//   LAYOUT-CONTENT.packed   a packed file; the names are its key
//   IDENTITY.source         the content key of a checkpoint whose files are unchanged since it was
//   computed
// Files are whole or absent, and checked when read; what is wrong is removed and made again. The
// least recently used go when the folder grows beyond its limit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "models/packed_file.h"

namespace tutti::models {

class PackCache {
 public:
  struct Options {
    std::filesystem::path folder;
    size_t least = size_t(4) << 20;      // bytes: smaller models are packed in a millisecond
    uint64_t most = uint64_t(32) << 30;  // bytes kept in the folder
    bool say_unwritable = true;          // for a folder that nobody asked for it is no news
    std::function<void(const std::string&)> note;  // told what went wrong; nothing of it is fatal
  };
  explicit PackCache(Options options) : options_(std::move(options)) {}

  // Whether a file of `packed` bytes pays, for weights that are `stored` bytes in the model's file:
  // much more than that takes longer to read from a disk than to make.
  bool wants(size_t packed, size_t stored) const;

  // What `make` computes for a checkpoint of that identity, kept from run to run.
  uint64_t content(std::optional<uint64_t> identity, const std::function<uint64_t()>& make) const;

  // The weights of that key, mapped; null when they are not there or not sound.
  std::shared_ptr<const std::byte> find(const PackedKey& key, size_t bytes,
                                        ComputePool& pool) const;
  // The same after `fill` has written them; null when the folder cannot hold them.
  std::shared_ptr<const std::byte> add(const PackedKey& key, size_t bytes, ComputePool& pool,
                                       const std::function<void(PackedFileWriter&)>& fill) const;

 private:
  void note(const std::string& text) const {
    if (options_.note) options_.note(text);
  }
  void unwritable(const std::string& text) const {
    if (options_.say_unwritable) note(text + "; the packed weights are not kept");
  }
  void trim(const std::string& but) const;

  Options options_;
};

}  // namespace tutti::models

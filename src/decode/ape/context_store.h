// Passages whose keys and values are kept: in pages of the engine's pool, and as files of a folder.
// A passage is found by what its keys and values depend on: model and arithmetic, KV type, salt,
// prefix tokens, its own tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/engine.h"

namespace tutti::decode {

// A folder of saved passages: <id>.ctx is the Context (engine/saved_context.h), <id>.json says what
// it is. Needs no model. Several processes may use one folder.
class ContextFolder {
 public:
  struct Entry {
    std::string id;    // 16 hexadecimal digits
    std::string name;  // by the user; may be empty
    std::string model;
    std::vector<int32_t> prefix, tokens;
    uint64_t bytes = 0;                    // of the Context's file
    std::filesystem::file_time_type used;  // last
  };

  // `budget`: bytes of Contexts at most; the least recently used go first. 0: no limit.
  explicit ContextFolder(std::filesystem::path folder, uint64_t budget = 0);

  const std::filesystem::path& path() const { return folder_; }
  // Most recently used first. Files that are not ours are passed over.
  std::vector<Entry> list() const;
  // The entry with this id, unambiguous beginning of an id (4 digits at least) or name. Throws
  // Error(kNotFound | kUsage).
  Entry get(const std::string& id_or_name) const;
  void remove(const Entry& entry);
  void set_name(const Entry& entry, const std::string& name);

  // nullopt when it is absent. A damaged file is removed, with a word to `note`.
  std::optional<engine::Context> load(engine::Engine& engine,
                                      std::shared_ptr<engine::Request> request, uint64_t key,
                                      uint64_t salt,
                                      const std::function<void(const std::string&)>& note);
  // Does nothing when it is there.
  void save(const engine::Context& context, uint64_t key, std::span<const int32_t> prefix,
            std::span<const int32_t> tokens, const std::string& model);

  static std::string id_of(uint64_t key);

 private:
  std::optional<Entry> read(
      const std::string& id) const;  // nullopt: absent, half removed, or not ours
  std::filesystem::path context_path(const std::string& id) const {
    return folder_ / (id + ".ctx");
  }
  std::filesystem::path about_path(const std::string& id) const { return folder_ / (id + ".json"); }
  void trim(const std::string& but);
  void write_about(const Entry& entry);

  std::filesystem::path folder_;
  uint64_t budget_;
};

// The two tiers of one engine. All calls happen on the engine's thread.
class ContextStore {
 public:
  struct Options {
    int pages = 0;  // kept in memory at most; 0: a quarter of the pool
    std::optional<ContextFolder> folder;
    std::string model;                             // for the folder's list
    std::function<void(const std::string&)> note;  // what went wrong without harm
  };
  struct Statistics {
    uint64_t memory_hits = 0, disk_hits = 0, misses = 0;
    uint64_t disk_bytes = 0;  // read
    double disk_seconds = 0;  // reading them
  };

  ContextStore(engine::Engine& engine, Options options);

  // A Context of prefix and passage, positions ascending from 0.
  std::optional<engine::Context> find(std::span<const int32_t> prefix,
                                      std::span<const int32_t> passage, uint64_t salt);
  // Keeps it in memory, and in the folder unless it is there already.
  void put(const engine::Context& context, std::span<const int32_t> prefix,
           std::span<const int32_t> passage, uint64_t salt);

  uint64_t key_of(std::span<const int32_t> prefix, std::span<const int32_t> passage,
                  uint64_t salt) const;
  const Statistics& statistics() const { return statistics_; }

 private:
  struct Kept {
    uint64_t key;
    engine::Context context;
    int pages;
  };
  void keep(uint64_t key, const engine::Context& context);

  engine::Engine& engine_;
  Options options_;
  std::shared_ptr<engine::Request> request_;  // whose pages the kept ones are
  std::list<Kept> kept_;                      // most recently used first
  std::unordered_map<uint64_t, std::list<Kept>::iterator> by_key_;
  int pages_ = 0;
  Statistics statistics_;
};

}  // namespace tutti::decode

#include "decode/ape/context_store.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"

namespace tutti::decode {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kMostAbout = size_t(64) << 20;  // bytes of an .json file

bool is_id(const std::string& text) {
  return text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Whether the Context is these tokens at positions 0, 1, …: a file of that name that says otherwise
// is another passage's.
bool holds(const engine::Context& context, std::span<const int32_t> prefix,
           std::span<const int32_t> passage) {
  const auto& recipe = context.state().recipe;
  if (recipe.size() != prefix.size() + passage.size() || !context.state().weighed.empty())
    return false;
  for (size_t i = 0; i < recipe.size(); ++i) {
    const int32_t token = i < prefix.size() ? prefix[i] : passage[i - prefix.size()];
    const auto& slot = recipe[i];
    if (slot.special || slot.token != token || slot.position != engine::Position(int32_t(i)) ||
        slot.segment != 0)
      return false;
  }
  return true;
}

}  // namespace

ContextFolder::ContextFolder(fs::path folder, uint64_t budget)
    : folder_(std::move(folder)), budget_(budget) {}

std::string ContextFolder::id_of(uint64_t key) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(key));
  return text;
}

std::optional<ContextFolder::Entry> ContextFolder::read(const std::string& id) const {
  try {
    Entry entry;
    entry.id = id;
    const Json about = Json::parse(read_file(about_path(id), kMostAbout));
    entry.name = about.at("name").get<std::string>();
    entry.model = about.at("model").get<std::string>();
    entry.prefix = about.at("prefix").get<std::vector<int32_t>>();
    entry.tokens = about.at("tokens").get<std::vector<int32_t>>();
    entry.bytes = fs::file_size(context_path(id));
    entry.used = fs::last_write_time(about_path(id));
    return entry;
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

std::vector<ContextFolder::Entry> ContextFolder::list() const {
  std::vector<Entry> entries;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const std::string id = it->path().stem().string();
    if (it->path().extension() != ".json" || !is_id(id)) continue;
    if (auto entry = read(id)) entries.push_back(std::move(*entry));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(b.used, a.id) < std::pair(a.used, b.id);
  });
  return entries;
}

ContextFolder::Entry ContextFolder::get(const std::string& wanted) const {
  // A whole id needs no look at the others.
  if (is_id(wanted)) {
    if (auto entry = read(wanted)) return std::move(*entry);
  }
  std::vector<Entry> found;
  for (Entry& entry : list()) {
    if (!entry.name.empty() && entry.name == wanted) return std::move(entry);
    if (wanted.size() >= 4 && entry.id.starts_with(wanted)) found.push_back(std::move(entry));
  }
  if (found.size() == 1) return std::move(found.front());
  if (found.empty()) {
    throw Error(ErrorKind::kNotFound, "context " + wanted +
                                          ": is neither a file nor a stored context of " +
                                          folder_.string() + "; see 'tutti contexts list'");
  }
  throw Error(ErrorKind::kUsage,
              "context " + wanted + ": is the beginning of several ids; give more digits");
}

void ContextFolder::remove(const Entry& entry) {
  std::error_code error;
  // What says that it exists goes first.
  fs::remove(about_path(entry.id), error);
  if (!error) fs::remove(context_path(entry.id), error);
  if (error) {
    throw Error(ErrorKind::kSystem,
                "context " + entry.id + ": cannot be removed (" + error.message() + ")");
  }
}

std::optional<engine::Context> ContextFolder::load(
    engine::Engine& engine, std::shared_ptr<engine::Request> request, uint64_t key, uint64_t salt,
    const std::function<void(const std::string&)>& note) {
  const std::string id = id_of(key);
  std::error_code error;
  if (!fs::exists(context_path(id), error)) return std::nullopt;
  try {
    engine::Context context =
        engine::Context::load(engine, std::move(request), context_path(id), salt);
    fs::last_write_time(about_path(id), fs::file_time_type::clock::now(), error);
    return context;
  } catch (const Error& refused) {
    if (refused.kind() != ErrorKind::kBadFile && refused.kind() != ErrorKind::kUnsupported) throw;
    fs::remove(about_path(id), error);
    fs::remove(context_path(id), error);
    if (note) note(std::string(refused.what()) + "; it is removed and computed again");
    return std::nullopt;
  }
}

void ContextFolder::write_about(const Entry& entry) {
  const Json about{{"name", entry.name},
                   {"model", entry.model},
                   {"prefix", entry.prefix},
                   {"tokens", entry.tokens}};
  write_file_atomically(about_path(entry.id),
                        about.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void ContextFolder::set_name(const Entry& entry, const std::string& name) {
  Entry named = entry;
  named.name = name;
  write_about(named);
}

void ContextFolder::save(const engine::Context& context, uint64_t key,
                         std::span<const int32_t> prefix, std::span<const int32_t> tokens,
                         const std::string& model) {
  Entry entry;
  entry.id = id_of(key);
  std::error_code error;
  if (fs::exists(about_path(entry.id), error) && fs::exists(context_path(entry.id), error)) return;
  fs::create_directories(folder_, error);
  if (error)
    throw Error(ErrorKind::kSystem,
                folder_.string() + ": cannot be made (" + error.message() + ")");
  context.save(context_path(entry.id));
  // Last, as it is what says that the entry is there.
  entry.model = model;
  entry.prefix.assign(prefix.begin(), prefix.end());
  entry.tokens.assign(tokens.begin(), tokens.end());
  write_about(entry);
  trim(entry.id);
}

void ContextFolder::trim(const std::string& but) {
  if (budget_ == 0) return;
  uint64_t bytes = 0;
  for (const Entry& entry : list()) {
    bytes += entry.bytes;
    if (bytes > budget_ && entry.id != but) {
      remove(entry);
      bytes -= entry.bytes;
    }
  }
}

ContextStore::ContextStore(engine::Engine& engine, Options options)
    : engine_(engine), options_(std::move(options)), request_(engine.new_request()) {
  if (options_.pages <= 0) options_.pages = engine.pages().total() / 4;
}

uint64_t ContextStore::key_of(std::span<const int32_t> prefix, std::span<const int32_t> passage,
                              uint64_t salt) const {
  Xxh64 hash;
  hash.add(engine_.model().fingerprint());
  hash.add(uint8_t(engine_.options().kv));
  hash.add(salt);
  hash.add(uint64_t(prefix.size()));
  hash.add(std::as_bytes(prefix));
  hash.add(std::as_bytes(passage));
  return hash.digest();
}

void ContextStore::keep(uint64_t key, const engine::Context& context) {
  const int pages = int(context.state().spans.size());
  if (pages > options_.pages || by_key_.contains(key)) return;
  kept_.push_front({key, context.fork(), pages});
  kept_.front().context.shared_state()->request = request_;
  by_key_[key] = kept_.begin();
  pages_ += pages;
  while (pages_ > options_.pages) {
    pages_ -= kept_.back().pages;
    by_key_.erase(kept_.back().key);
    kept_.pop_back();
  }
}

std::optional<engine::Context> ContextStore::find(std::span<const int32_t> prefix,
                                                  std::span<const int32_t> passage, uint64_t salt) {
  const uint64_t key = key_of(prefix, passage, salt);
  if (const auto it = by_key_.find(key); it != by_key_.end()) {
    kept_.splice(kept_.begin(), kept_, it->second);
    if (holds(kept_.front().context, prefix, passage)) {
      ++statistics_.memory_hits;
      return kept_.front().context.fork();
    }
  } else if (options_.folder) {
    const auto start = std::chrono::steady_clock::now();
    auto context = options_.folder->load(engine_, request_, key, salt, options_.note);
    if (context && holds(*context, prefix, passage)) {
      ++statistics_.disk_hits;
      statistics_.disk_bytes +=
          context->state().spans.size() * engine_.pages().layout().page_bytes();
      statistics_.disk_seconds +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      keep(key, *context);
      return context;
    }
  }
  ++statistics_.misses;
  return std::nullopt;
}

void ContextStore::put(const engine::Context& context, std::span<const int32_t> prefix,
                       std::span<const int32_t> passage, uint64_t salt) {
  const uint64_t key = key_of(prefix, passage, salt);
  keep(key, context);
  if (options_.folder) options_.folder->save(context, key, prefix, passage, options_.model);
}

}  // namespace tutti::decode

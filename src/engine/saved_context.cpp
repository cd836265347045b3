#include "engine/saved_context.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "engine/engine.h"

namespace tutti::engine {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'T', 'U', 'T', 'T', 'I', 'C', 'T', 'X'};
constexpr size_t kSizeAt = sizeof(kMagic) + 4;  // of the u64 with the file's size
constexpr size_t kChecksumBytes = 8;
// Positions beyond these are no text's; arithmetic on them must not overflow.
constexpr int32_t kMaxPosition = 1 << 30;
enum SlotKind : uint8_t { kPlain = 0, kSpecial = 1 };

// Appends numbers and lists to a growing head.
class Writer {
 public:
  template <class T>
  void put(T value) {
    const auto* p = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), p, p + sizeof(value));
  }
  template <class T>
  void list(const std::vector<T>& values) {
    put(uint32_t(values.size()));
    for (const T value : values) put(value);
  }
  std::vector<std::byte> bytes;
};

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& place)
      : bytes_(bytes), place_(place) {}

  template <class T>
  T get() {
    need(sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  // A count of things of at least `each` bytes: more than the rest of the file holds is a lie.
  uint32_t count(size_t each, const char* what) {
    const auto n = get<uint32_t>();
    if (n > left() / each)
      bad(std::to_string(n) + " " + what + " in " + std::to_string(left()) + " bytes");
    return n;
  }
  template <class T>
  std::vector<T> list(const char* what) {
    std::vector<T> values(count(sizeof(T), what));
    for (T& value : values) value = get<T>();
    return values;
  }
  std::span<const std::byte> bytes(size_t n) {
    need(n);
    at_ += n;
    return bytes_.subspan(at_ - n, n);
  }
  size_t left() const { return bytes_.size() - at_; }
  [[noreturn]] void bad(const std::string& what) const {
    throw Error(ErrorKind::kBadFile,
                place_ + ": not a sound saved context: " + what + "; delete it");
  }

 private:
  void need(size_t n) const {
    if (n > left()) bad("ends in the middle of a field");
  }
  std::span<const std::byte> bytes_;
  const std::string& place_;
  size_t at_ = 0;
};

void put_classes(Writer& w, const std::vector<tensor::SoftmaxClass>& classes) {
  w.put(uint32_t(classes.size()));
  for (const auto& c : classes) {
    w.put(c.inverse_temperature);
    w.put(c.lse_scale);
  }
}

// `recipe`: what the row saw goes along; without it the row cannot be recomputed, and never is.
void put_special(Writer& w, const SpecialRow& row, bool recipe) {
  w.put(uint8_t(row.in.kind));
  w.put(row.in.token);
  w.list(row.in.vector);
  w.list(row.in.ids);
  w.list(row.in.weights);
  w.put(row.in.row);  // a row's linear map stays behind: such rows are never recomputed
  w.put(int32_t(row.active.enter));
  w.put(int32_t(row.active.leave));
  w.put(uint8_t(row.causal));
  w.put(uint8_t(row.sees_self));
  w.put(uint32_t(recipe ? row.seen.size() : 0));
  for (const auto& seen : recipe ? row.seen : std::vector<SpecialRow::Seen>()) {
    w.put(int32_t(seen.first));
    w.put(int32_t(seen.count));
    w.put(seen.softmax_class);
  }
  put_classes(w, row.classes);
}

bool flag(Reader& r, const char* what) {
  const auto value = r.get<uint8_t>();
  if (value > 1) r.bad(std::string(what) + " is neither 0 nor 1");
  return value == 1;
}

std::vector<tensor::SoftmaxClass> get_classes(Reader& r) {
  const uint32_t count = r.count(8, "softmax classes");
  if (count > uint32_t(tensor::kMaxSoftmaxClasses))
    r.bad(std::to_string(count) + " softmax classes");
  std::vector<tensor::SoftmaxClass> classes(count);
  for (auto& softmax : classes) {
    softmax.inverse_temperature = r.get<float>();
    softmax.lse_scale = r.get<float>();
    if (!std::isfinite(softmax.inverse_temperature) || !std::isfinite(softmax.lse_scale)) {
      r.bad("a softmax class is not finite");
    }
  }
  return classes;
}

// The slots that later rows see through a class of the Context.
void get_weighed(Reader& r, ContextState& state) {
  state.classes = get_classes(r);
  if (!ordinary(state.classes)) r.bad("class 0 of a context is not ordinary");
  const uint32_t count = r.count(9, "weighed runs");
  int taken = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const WeighedSlots run{r.get<int32_t>(), r.get<int32_t>(), r.get<uint8_t>()};
    if (run.first < taken || run.count < 1 || run.count > INT32_MAX - run.first)
      r.bad("weighed slots out of order");
    if (run.softmax_class < 1 || run.softmax_class >= state.classes.size())
      r.bad("weighed slots of no class");
    state.weighed.push_back(run);
    taken = run.first + run.count;
  }
}

std::shared_ptr<const SpecialRow> get_special(Reader& r, const models::Config& c, uint32_t slots) {
  auto row = std::make_shared<SpecialRow>();
  const auto kind = r.get<uint8_t>();
  if (kind > RowInput::kMask) r.bad("input kind " + std::to_string(kind));
  row->in.kind = RowInput::Kind(kind);
  const auto in_vocabulary = [&](int32_t token) {
    if (token < 0 || token >= c.vocab)
      r.bad("token " + std::to_string(token) + " is not in the vocabulary");
  };
  const auto finite = [&](float x) {
    if (!std::isfinite(x)) r.bad("a number is not finite");
  };
  row->in.token = r.get<int32_t>();
  row->in.vector = r.list<float>("numbers");
  row->in.ids = r.list<int32_t>("ids");
  row->in.weights = r.list<float>("weights");
  row->in.row = r.get<int32_t>();
  if (row->in.kind == RowInput::kToken) in_vocabulary(row->in.token);
  if (row->in.kind == RowInput::kVector && row->in.vector.size() != size_t(c.hidden)) {
    r.bad("a vector of " + std::to_string(row->in.vector.size()) + " numbers");
  }
  if (row->in.ids.size() != row->in.weights.size() ||
      (row->in.kind == RowInput::kMix && row->in.ids.empty())) {
    r.bad("a mix of " + std::to_string(row->in.ids.size()) + " ids");
  }
  for (const int32_t id : row->in.ids) in_vocabulary(id);
  for (const float x : row->in.vector) finite(x);
  for (const float x : row->in.weights) finite(x);
  row->active.enter = r.get<int32_t>();
  row->active.leave = r.get<int32_t>();
  if (row->active.enter < 0 || row->active.leave < row->active.enter)
    r.bad("a row runs through no layers");
  row->causal = flag(r, "causal");
  row->sees_self = flag(r, "sees_self");
  const uint32_t seen = r.count(9, "seen runs");
  for (uint32_t i = 0; i < seen; ++i) {
    SpecialRow::Seen run{r.get<int32_t>(), r.get<int32_t>(), r.get<uint8_t>()};
    const bool inside = run.first >= 0 && run.count >= 1 && uint32_t(run.first) < slots &&
                        uint32_t(run.count) <= slots - uint32_t(run.first);
    if (!inside || run.softmax_class >= tensor::kMaxSoftmaxClasses)
      r.bad("a row saw what is not there");
    row->seen.push_back(run);
  }
  row->classes = get_classes(r);
  return row;
}

// Zeroes the slots of a page that are not named.
void keep_slots(const tensor::KvLayout& layout, uint32_t named, std::byte* page) {
  const size_t element = layout.element_bytes();
  const size_t row = size_t(layout.head_dim) * element;
  const size_t scales = size_t(layout.head_dim) * tensor::kPageSlots * element;
  for (int slot = 0; slot < tensor::kPageSlots; ++slot) {
    if (named >> slot & 1) continue;
    for (int layer = 0; layer < layout.layers; ++layer) {
      for (int head = 0; head < layout.heads; ++head) {
        std::byte* k = page + layout.offset(layer, head);
        std::byte* v = k + layout.block_bytes();
        for (int d = 0; d < layout.head_dim; ++d) {
          std::memset(k + (size_t(d) * tensor::kPageSlots + size_t(slot)) * element, 0, element);
        }
        std::memset(v + size_t(slot) * row, 0, row);
        if (layout.type != tensor::KvType::kI8) continue;
        std::memset(k + scales + size_t(slot) * 4, 0, 4);
        std::memset(v + scales + size_t(slot) * 4, 0, 4);
      }
    }
  }
}

uint32_t mask_of(const PageSpan& span) {
  return uint32_t(((uint64_t(1) << span.count) - 1) << span.first);
}

}  // namespace

void ContextFile::write(const Context& context, const Sink& sink) {
  const ContextState& s = context.state();
  const PagePool& pool = s.engine->pages();
  const tensor::KvLayout& layout = pool.layout();
  const models::Model& model = s.engine->model();

  Writer w;
  for (const char c : kMagic) w.put(c);
  w.put(kContextFormat);
  w.put(uint64_t(0));  // the size, known below
  w.put(model.fingerprint());
  w.list(std::vector<char>(model.config().architecture.begin(), model.config().architecture.end()));
  w.put(uint8_t(layout.type));
  for (const int n : {tensor::kPageSlots, layout.layers, layout.heads, layout.head_dim})
    w.put(int32_t(n));
  w.put(s.salt);
  w.put(uint8_t(s.reproducible));
  put_classes(w, s.classes);
  w.put(uint32_t(s.weighed.size()));
  for (const WeighedSlots& run : s.weighed) {
    w.put(int32_t(run.first));
    w.put(int32_t(run.count));
    w.put(run.softmax_class);
  }
  w.put(uint32_t(s.recipe.size()));
  for (const SlotRecipe& slot : s.recipe) {
    w.put(slot.special ? kSpecial : kPlain);
    for (const int32_t p : {slot.position.t, slot.position.h, slot.position.w, slot.segment})
      w.put(p);
    if (slot.special) {
      put_special(w, *slot.special, s.reproducible);
    } else {
      w.put(slot.token);
    }
  }
  // Pages in the order of their first span; a page may be named by several spans.
  std::map<PageId, uint32_t> index;
  std::vector<std::pair<PageId, uint32_t>> pages;  // and the slots named
  w.put(uint32_t(s.spans.size()));
  for (const PageSpan& span : s.spans) {
    const auto [it, fresh] = index.emplace(span.page.id(), uint32_t(pages.size()));
    if (fresh) pages.emplace_back(span.page.id(), 0);
    pages[it->second].second |= mask_of(span);
    w.put(it->second);
    w.put(span.first);
    w.put(span.count);
  }
  w.put(uint32_t(pages.size()));
  const uint64_t size = w.bytes.size() + pages.size() * layout.page_bytes() + kChecksumBytes;
  std::memcpy(w.bytes.data() + kSizeAt, &size, sizeof(size));

  Xxh64 hash;
  const auto out = [&](std::span<const std::byte> bytes) {
    hash.add(bytes);
    sink(bytes);
  };
  out(w.bytes);
  std::vector<std::byte> page(layout.page_bytes());
  for (const auto& [id, named] : pages) {
    std::memcpy(page.data(), pool.memory(id), page.size());
    keep_slots(layout, named, page.data());
    out(page);
  }
  const uint64_t checksum = hash.digest();
  sink(std::as_bytes(std::span(&checksum, 1)));
}

Context ContextFile::read(Engine& engine, std::shared_ptr<Request> request,
                          std::span<const std::byte> bytes, const std::string& place,
                          uint64_t salt) {
  const models::Model& model = engine.model();
  const models::Config& config = model.config();
  const tensor::KvLayout& layout = engine.pages().layout();
  const auto other = [&](const std::string& what) {
    throw Error(ErrorKind::kUnsupported,
                place + ": was saved " + what + "; name another file or delete it");
  };
  if (bytes.size() < kSizeAt + 8 + kChecksumBytes ||
      std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) {
    throw Error(ErrorKind::kBadFile, place + ": is not a saved context; name another file");
  }
  Reader r(bytes.first(bytes.size() - kChecksumBytes), place);
  r.bytes(sizeof(kMagic));
  if (const auto format = r.get<uint32_t>(); format != kContextFormat) {
    other("in format " + std::to_string(format) + ", this program reads " +
          std::to_string(kContextFormat));
  }
  if (const auto size = r.get<uint64_t>(); size != bytes.size()) {
    r.bad(std::to_string(bytes.size()) + " bytes of " + std::to_string(size));
  }
  uint64_t checksum;
  std::memcpy(&checksum, bytes.data() + bytes.size() - kChecksumBytes, sizeof(checksum));
  if (xxh64(bytes.first(bytes.size() - kChecksumBytes)) != checksum) r.bad("its checksum is wrong");

  const auto fingerprint = r.get<uint64_t>();
  const auto architecture = r.list<char>("letters");
  if (fingerprint != model.fingerprint()) {
    other("by another model or arithmetic (" +
          std::string(architecture.begin(), architecture.end()) + ")");
  }
  const auto type = r.get<uint8_t>();
  if (type != uint8_t(layout.type)) other("with another type of keys and values (--kv)");
  for (const int n : {tensor::kPageSlots, layout.layers, layout.heads, layout.head_dim}) {
    if (r.get<int32_t>() != n) r.bad("the page layout is not the model's");
  }
  if (r.get<uint64_t>() != salt) other("under another cache salt");

  auto state = std::make_shared<ContextState>();
  state->engine = &engine;
  state->request = std::move(request);
  state->salt = salt;
  state->loaded = true;
  state->reproducible = flag(r, "reproducible");
  get_weighed(r, *state);
  const uint32_t slots = r.count(21, "slots");
  state->recipe.reserve(slots);
  for (uint32_t i = 0; i < slots; ++i) {
    SlotRecipe slot;
    const auto kind = r.get<uint8_t>();
    if (kind > kSpecial) r.bad("slot kind " + std::to_string(kind));
    for (int32_t* p : {&slot.position.t, &slot.position.h, &slot.position.w}) {
      *p = r.get<int32_t>();
      if (*p < -kMaxPosition || *p > kMaxPosition) r.bad("position " + std::to_string(*p));
    }
    slot.segment = r.get<int32_t>();
    if (kind == kSpecial) {
      slot.special = get_special(r, config, slots);
      const LayerRange& active = slot.special->active;
      if (active.enter > 0 || active.leave < config.layers) state->partial_layers = true;
      for (const auto& seen : slot.special->seen) {
        if (uint32_t(seen.first + seen.count) > i + 1) state->looks_ahead = true;
      }
      if (state->reproducible && slot.special->in.kind == RowInput::kFromRow) {
        r.bad("a row made from another row cannot be recomputed");
      }
    } else {
      slot.token = r.get<int32_t>();
      if (slot.token < 0 || slot.token >= config.vocab) {
        r.bad("token " + std::to_string(slot.token) + " is not in the vocabulary");
      }
    }
    if (i > 0 && slot.position.t <= state->recipe.back().position.t) state->monotonic = false;
    state->recipe.push_back(std::move(slot));
  }

  if (!state->weighed.empty() &&
      state->weighed.back().first + state->weighed.back().count > int64_t(slots)) {
    r.bad("weighed slots that are not there");
  }

  struct Span {
    uint32_t page;
    uint8_t first, count;
  };
  std::vector<Span> spans(r.count(6, "spans"));
  uint64_t resident = 0;
  uint32_t named_pages = 0;
  for (Span& span : spans) {
    span.page = r.get<uint32_t>();
    span.first = r.get<uint8_t>();
    span.count = r.get<uint8_t>();
    if (span.count < 1 || span.first + span.count > tensor::kPageSlots)
      r.bad("a span leaves its page");
    if (span.page > named_pages) r.bad("pages are out of order");
    named_pages = std::max(named_pages, span.page + 1);
    resident += span.count;
  }
  if (resident > slots) r.bad("more slots have keys than there are");
  if (resident < slots && !state->reproducible) r.bad("slots without keys cannot be recomputed");
  const auto pages = r.get<uint32_t>();
  if (pages != named_pages || r.left() != uint64_t(pages) * layout.page_bytes()) {
    r.bad(std::to_string(pages) + " pages in " + std::to_string(r.left()) + " bytes");
  }

  std::vector<PageRef> refs;
  for (uint32_t i = 0; i < pages; ++i) {
    refs.push_back(engine.take_page(*state->request));
    const auto page = r.bytes(layout.page_bytes());
    std::memcpy(engine.pages().memory(refs.back().id()), page.data(), page.size());
  }
  for (const Span& span : spans) state->spans.push_back({refs[span.page], span.first, span.count});
  refs.clear();
  state->resident = int(resident);
  if (!state->spans.empty()) {
    // All pages are this Context's own: the tail may grow unless some span names slots behind it.
    const PageSpan& tail = state->spans.back();
    state->tail_owned =
        std::none_of(state->spans.begin(), state->spans.end(), [&](const PageSpan& span) {
          return span.page.id() == tail.page.id() &&
                 span.first + span.count > tail.first + tail.count;
        });
  }
  engine.register_context(state);
  return Context(std::move(state));
}

void Context::save(const std::filesystem::path& path) const {
  write_file_atomically(path, [&](const Sink& sink) { ContextFile::write(*this, sink); });
}

Context Context::load(Engine& engine, std::shared_ptr<Request> request,
                      const std::filesystem::path& path, uint64_t salt) {
  const MappedFile file(path);
  return ContextFile::read(engine, std::move(request), file.bytes(), path.string(), salt);
}

}  // namespace tutti::engine

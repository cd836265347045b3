// A Context as bytes: recipe, page table, and the keys and values of its resident slots, with what
// they depend on.
//
// Little-endian: "TUTTICTX", u32 format, u64 bytes of the file, u64 fingerprint of the model, its
// architecture, the KV layout, salt, flags; softmax classes and the slots that have them; slots,
// each a plain token or a special row; spans (page, first, count); pages as they lie in memory,
// slots that no span names zeroed (they may be another request's); XXH64 of everything before.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/files.h"
#include "engine/context.h"

namespace tutti::engine {

// Raised when the layout changes, or the arithmetic of the exact classes: the bits of old files
// would not be ours.
inline constexpr uint32_t kContextFormat = 2;

class ContextFile {
 public:
  static void write(const Context& context, const Sink& sink);
  // Throws as Context::load, with messages that begin with `place`. Nothing of the bytes is trusted
  // but, once the checksum holds, the values of keys and values; those reach no other request.
  static Context read(Engine& engine, std::shared_ptr<Request> request,
                      std::span<const std::byte> bytes, const std::string& place,
                      uint64_t salt = 0);
};

}  // namespace tutti::engine

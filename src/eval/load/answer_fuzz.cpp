// Any bytes as a server's answer (the first byte: in pieces of how many), as an address, and as a
// file of requests: an Error, or something that holds together.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "eval/load/answer_reader.h"
#include "eval/load/event_stream.h"
#include "eval/load/load_plan.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  if (size == 0) return 0;
  const size_t piece = size_t(data[0]) + 1;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  eval::AnswerReader streamed, whole;
  double now = 0;
  eval::EventStream events([&](std::string_view event) { streamed.event(event, now); });
  for (size_t at = 0; at < bytes.size(); at += piece) {
    now += 1;
    events.feed(bytes.substr(at, std::min(piece, bytes.size() - at)));
  }
  whole.whole(bytes);
  const size_t gaps = streamed.gaps().size();
  if (streamed.pieces() != (streamed.first_text() < 0 ? 0 : gaps + 1)) std::abort();
  if (streamed.last_text() > now || whole.first_text() >= 0 || !whole.done()) std::abort();
  try {
    const eval::ServerAddress address = eval::parse_server_url(bytes);
    if (address.host.empty() || address.port.empty() || address.root.ends_with('/')) std::abort();
  } catch (const Error&) {
  }
  try {
    for (const eval::LoadRequest& r : eval::read_load(bytes, "fuzz", {}, 1, true)) {
      if (r.body.empty() || r.arrival < 0) std::abort();
    }
  } catch (const Error&) {
  }
  return 0;
}

// Plays requests on a server with OpenAI's API as its clients would, and says what became of each.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/load/http_client.h"

namespace tutti::eval {

struct LoadRequest {
  double arrival = 0;        // seconds since the run began; of open loops
  double cancel_after = -1;  // seconds after it was sent that the client goes away; < 0: never
  bool is_long = false;      // of the share with long prompts
  std::string body;          // JSON

  LoadRequest() = default;
};

// Times in seconds since the run began; negative: it did not come to that.
struct LoadRecord {
  enum Outcome : uint8_t {
    kInterrupted,  // not sent, or not ended when the run was
    kCompleted,
    kCancelled,  // as the request wanted
    kFailed,
  } outcome = kInterrupted;
  double sent = -1, first_text = -1, end = -1;
  std::vector<double> gaps;  // between pieces of text
  size_t pieces = 0;         // of text; a piece is a token, or several that came at once
  uint64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  bool counted = false;  // by the server; else output_tokens are pieces
  bool is_long = false;
  int status = 0;
  std::string failure;  // its kind, such as "HTTP 429" or "no connection (…)"
  std::string message;  // what the server said about it
};
std::string_view name(LoadRecord::Outcome outcome);  // "completed", …

struct LoadOptions {
  std::string path = "/v1/chat/completions";
  bool stream = true;
  int clients = 0;  // closed loop: so many, each sends its next request when it has an answer; 0:
                    // open loop, requests go out at their arrival
  std::function<void(size_t ended, size_t in_flight)> on_progress;
};

struct LoadRun {
  std::vector<LoadRecord> records;  // in the requests' order
  double seconds = 0;               // to the end of the last
  double cpu_seconds = 0;           // that this process took meanwhile
  size_t most_in_flight = 0;
  bool interrupted = false;

  LoadRun() = default;
};

// Runs `io` until all requests have ended, or until the client is told to abandon them.
LoadRun run_load(asio::io_context& io, HttpClient& client, const std::vector<LoadRequest>& requests,
                 const LoadOptions& options);

}  // namespace tutti::eval

#include "serve/api_error.h"

#include <boost/system/system_error.hpp>
#include <nlohmann/json.hpp>

#include "decode/speculative/draft_model.h"
#include "formats/json_text.h"

namespace tutti::serve {

ApiError api_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const ApiError& e) {
    return e;
  } catch (const decode::speculative::DraftFailure& e) {
    return ApiError(500, "server_error", e.what());  // what to do next is in it
  } catch (const Error& e) {
    switch (e.kind()) {
      case ErrorKind::kUsage:
        return ApiError(400, "invalid_request_error", e.what());
      case ErrorKind::kUnsupported:
        return ApiError(400, "invalid_request_error", e.what());
      case ErrorKind::kNotFound:
        return ApiError(404, "not_found_error", e.what());
      case ErrorKind::kLimit: {
        const bool grammar = std::string_view(e.what()).starts_with("grammar");
        return ApiError(400, "invalid_request_error", e.what(), "",
                        grammar ? "grammar_too_complex" : "context_length_exceeded");
      }
      case ErrorKind::kCancelled:
        return ApiError(499, "cancelled", e.what());
      default:
        return ApiError(500, "server_error", "the server failed; see its log");
    }
  } catch (const boost::system::system_error&) {
    return ApiError(499, "cancelled", "the request was cancelled");
  } catch (...) {
    return ApiError(500, "server_error", "the server failed; see its log");
  }
}

namespace {

// Errors quote what they are about, which may be as long as a body. A character that is cut is
// printed as U+FFFD.
std::string shortened(const std::string& text, size_t most) {
  return text.size() <= most ? text : text.substr(0, most) + "…";
}

}  // namespace

std::string error_body(const ApiError& error) {
  const auto or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(shortened(text, 200));
  };
  return formats::print_json({{"error",
                               {{"message", shortened(error.what(), 2000)},
                                {"type", error.type},
                                {"param", or_null(error.param)},
                                {"code", or_null(error.code)}}}});
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status;
  response.body = error_body(error);
  if (error.retry_after > 0)
    response.headers.emplace_back("retry-after", std::to_string(error.retry_after));
  return response;
}

ApiError invalid(const std::string& message, const std::string& param) {
  return ApiError(400, "invalid_request_error", message, param);
}
ApiError unsupported(const std::string& message, const std::string& param) {
  return ApiError(501, "not_supported_error", message, param);
}

}  // namespace tutti::serve

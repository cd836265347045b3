// An error as OpenAI's clients read it.
#pragma once

#include <string>

#include "base/error.h"
#include "serve/http.h"

namespace tutti::serve {

class ApiError : public Error {
 public:
  // `param`: the field at fault, or empty. `code`: a word for programs, or empty.
  ApiError(int status, std::string type, const std::string& message, std::string param = "",
           std::string code = "")
      : Error(ErrorKind::kUsage, message),
        status(status),
        type(std::move(type)),
        param(std::move(param)),
        code(std::move(code)) {}
  int status;
  std::string type, param, code;
  int retry_after = 0;  // seconds; 0: not said
};

// {"error": {"message", "type", "param", "code"}} of any exception; what is no Error of ours is a
// 500 without internals.
ApiError api_error(const std::exception_ptr& error);
std::string error_body(const ApiError& error);
HttpResponse error_response(const ApiError& error);

ApiError invalid(const std::string& message, const std::string& param = "");
ApiError unsupported(const std::string& message, const std::string& param = "");  // 501

}  // namespace tutti::serve

// What an exception says of itself, for those who tell of it and go on.
#pragma once

#include <exception>
#include <string>

namespace tutti {

// std::exception's what(), or that it is none. `error` is not null.
std::string text_of(const std::exception_ptr& error);

}  // namespace tutti

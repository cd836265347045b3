#include "base/exception_text.h"

namespace tutti {

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "for a reason that is no std::exception";
  }
}

}  // namespace tutti

// Any bytes as the lines of `eval tasks --file`, and as what a model wrote: an Error, or items
// whose checks answer.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "check/human_eval.h"
#include "eval/tasks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto encode = [](const std::string& prompt) {
    return std::vector<int32_t>(prompt.size(), 1);
  };
  for (const eval::Check check :
       {eval::Check::kExact, eval::Check::kNumber, eval::Check::kPython}) {
    try {
      for (const eval::TaskItem& item : eval::items_of_lines(text, "lines", check, encode, {})) {
        if (check != eval::Check::kPython) item.solves(text);  // that one runs a program
      }
    } catch (const Error&) {
    }
  }
  const check::PythonTask task{text.substr(0, size / 2), "def check(f): pass",
                               text.substr(0, size % 7)};
  if (check::python_program(task, text).find(task.test) == std::string::npos) __builtin_trap();
  return 0;
}

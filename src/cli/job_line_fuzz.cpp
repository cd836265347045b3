// Any bytes as a line of a --prompts file: an Error or a job whose text can be printed again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "cli/job_line.h"
#include "cli/json_text.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  decode::GenerationOptions defaults;
  defaults.method = "beam";
  defaults.method_options["width"] = "3";
  try {
    const cli::JobLine job =
        cli::parse_job_line({reinterpret_cast<const char*>(data), size}, defaults);
    if (job.messages && !job.messages->is_array()) std::abort();
    if (job.options.method != "beam" && !job.options.method_options.empty() &&
        cli::parse_json({reinterpret_cast<const char*>(data), size}).find("options") ==
            cli::parse_json({reinterpret_cast<const char*>(data), size}).end()) {
      std::abort();  // options of a method that the line does not use
    }
    cli::print_json(job.id);
    engine::validate(job.options.sampling, 1000);
  } catch (const Error&) {
  }
  return 0;
}

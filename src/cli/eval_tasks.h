// tutti eval tasks: generated problems with checkable answers, under any methods.
#pragma once

namespace CLI {
class App;
}

namespace tutti::cli {

void add_eval_tasks(CLI::App& eval);

}  // namespace tutti::cli

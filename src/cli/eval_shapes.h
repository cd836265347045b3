// tutti eval shapes, declared under `eval`.
#pragma once

namespace CLI {
class App;
}

namespace tutti::cli {

void add_eval_shapes(CLI::App& eval);

}  // namespace tutti::cli

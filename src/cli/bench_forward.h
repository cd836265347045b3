// `bench forward`, declared under `bench`.
#pragma once

namespace CLI {
class App;
}

namespace tutti::cli {

void add_bench_forward(CLI::App& bench);

}  // namespace tutti::cli

// `bench serve`, declared under `bench`.
#pragma once

namespace CLI {
class App;
}

namespace tutti::cli {

void add_bench_serve(CLI::App& bench);

}  // namespace tutti::cli

// The commands of `tutti`, one file each. add_X declares a command's options and what it runs.
#pragma once

namespace CLI {
class App;
}

namespace tutti::cli {

void add_run(CLI::App& app);
void add_serve(CLI::App& app);
void add_chat(CLI::App& app);
void add_contexts(CLI::App& app);
void add_bench(CLI::App& app);
void add_traffic(CLI::App& app);
// `bench matmul`, declared under `bench`.
void add_bench_matmul(CLI::App& bench);
void add_eval(CLI::App& app);
void add_inspect(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_quantize(CLI::App& app);
void add_train(CLI::App& app);
void add_methods(CLI::App& app);
void add_infill(CLI::App& app);
void add_score(CLI::App& app);
void add_embed(CLI::App& app);
void add_completion(CLI::App& app);
void add_train_filter(CLI::App& app);
void add_image(CLI::App& app);
void add_train_vision(CLI::App& app);
void add_ppd(CLI::App& app);

}  // namespace tutti::cli

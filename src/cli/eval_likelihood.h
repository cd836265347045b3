// tutti eval likelihood: what answers cost a model that fills in masked tokens.
#pragma once

namespace CLI {
class App;
}

namespace tutti::cli {

void add_eval_likelihood(CLI::App& eval);

}  // namespace tutti::cli

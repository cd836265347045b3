// The reference sampler of masked models on libllama, as its users could write it at best: one sequence, the whole of it
// in each forward, logits only where the block is open, one position written per forward, the argmax without copies.
//   static_sampler MODEL.gguf PROMPTS THREADS ANSWER_TOKENS BLOCK [STOP_ID]
// PROMPTS: a line of token ids each, apart by spaces. With STOP_ID the answer ends once all before that token is written.
// A line per prompt on stdout: seconds, forwards, the answer's ids. Loading is not timed.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "llama.h"

int main(int argc, char** argv) {
  if (argc < 6) return std::fprintf(stderr, "usage: static_sampler MODEL PROMPTS THREADS ANSWER_TOKENS BLOCK [STOP_ID]\n"), 2;
  const int threads = std::atoi(argv[3]), answer = std::atoi(argv[4]), block = std::atoi(argv[5]);
  const int stop = argc > 6 ? std::atoi(argv[6]) : -1;
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) return std::fprintf(stderr, "static_sampler: cannot load %s\n", argv[1]), 1;
  const llama_vocab* vocab = llama_model_get_vocab(model);
  const int n_vocab = llama_vocab_n_tokens(vocab);
  const llama_token mask = llama_vocab_mask(vocab);

  std::vector<std::vector<llama_token>> prompts;
  std::ifstream in(argv[2]);
  for (std::string line; std::getline(in, line);) {
    std::istringstream ids(line);
    prompts.emplace_back();
    for (llama_token id; ids >> id;) prompts.back().push_back(id);
  }
  size_t longest = 0;
  for (const auto& p : prompts) longest = std::max(longest, p.size());

  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = uint32_t(longest) + uint32_t(answer);
  params.n_threads = params.n_threads_batch = threads;
  params.no_perf = true;
  llama_context* context = llama_init_from_model(model, params);
  if (!context) return std::fprintf(stderr, "static_sampler: no context\n"), 1;
  llama_set_causal_attn(context, false);
  llama_batch batch = llama_batch_init(int32_t(longest) + answer, 0, 1);

  for (int round = -1; round < int(prompts.size()); ++round) {  // the first one twice: once to warm up
    const auto& prompt = prompts[size_t(std::max(round, 0))];
    const int first = int(prompt.size()), size = first + answer;
    std::vector<llama_token> x(prompt);
    x.resize(size_t(size), mask);
    std::vector<bool> open(size_t(size), false);
    for (int p = first; p < size; ++p) open[size_t(p)] = true;
    int forwards = 0, settled = first;
    const auto start = std::chrono::steady_clock::now();
    bool done = false;
    for (int begin = first; begin < size && !done; begin += block) {
      const int end = std::min(begin + block, size);
      for (int left = end - begin; left > 0 && !done; --left) {
        batch.n_tokens = size;
        for (int p = 0; p < size; ++p) {
          batch.token[p] = x[size_t(p)];
          batch.pos[p] = p;
          batch.n_seq_id[p] = 1;
          batch.seq_id[p][0] = 0;
          batch.logits[p] = p >= begin && p < end && open[size_t(p)];
        }
        llama_memory_clear(llama_get_memory(context), false);
        if (llama_decode(context, batch) != 0) return std::fprintf(stderr, "static_sampler: decode failed\n"), 1;
        ++forwards;
        int best = -1;
        llama_token token = -1;
        float highest = -INFINITY;
        for (int p = begin; p < end; ++p) {
          if (!open[size_t(p)]) continue;
          const float* l = llama_get_logits_ith(context, p);
          llama_token top = mask == 0 ? 1 : 0;
          float most = l[0];
          for (llama_token v = 0; v < n_vocab; ++v) {
            if (v != mask && l[v] > l[top]) top = v;
            most = std::max(most, l[v]);
          }
          float sum = 0;
          for (llama_token v = 0; v < n_vocab; ++v) sum += std::exp(l[v] - most);
          const float confidence = l[top] - most - std::log(sum);
          if (confidence > highest) {
            highest = confidence;
            best = p;
            token = top;
          }
        }
        x[size_t(best)] = token;
        open[size_t(best)] = false;
        while (settled < size && !open[size_t(settled)] && !done) done = x[size_t(settled++)] == stop;
      }
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (round < 0) continue;
    std::printf("%.6f %d", seconds, forwards);
    for (int p = first; p < size; ++p) std::printf(" %d", x[size_t(p)]);
    std::printf("\n");
  }
  llama_batch_free(batch);
  llama_free(context);
  llama_model_free(model);
  llama_backend_free();
}

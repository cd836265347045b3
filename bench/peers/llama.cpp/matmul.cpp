// Products of ggml as llama.cpp runs them: weights repacked for this CPU where ggml knows how, else as they are.
//   matmul TYPE OUT IN THREADS MEGABYTES REPEATS ROWS...
// As many matrices as make MEGABYTES are multiplied in turn, so that no cache holds them; the rows' quantisation is part
// of every product, as in a model. A line per number of rows on stdout: rows, seconds of one product (the median), and
// the kind of buffer that holds the weights.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

ggml_type type_of(const std::string& name) {
  for (int t = 0; t < GGML_TYPE_COUNT; ++t) {
    if (ggml_type_name(ggml_type(t)) && name == ggml_type_name(ggml_type(t))) return ggml_type(t);
  }
  std::fprintf(stderr, "matmul: ggml has no type %s\n", name.c_str());
  std::exit(2);
}

// The kinds of buffers that the CPU offers beside its own, best first, then its own: what llama.cpp tries for weights.
std::vector<ggml_backend_buffer_type_t> buffer_types() {
  std::vector<ggml_backend_buffer_type_t> types;
  ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  const auto extra = ggml_backend_dev_get_extra_bufts_t(
      ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"));
  if (extra) {
    for (ggml_backend_buffer_type_t* t = extra(cpu); t && *t; ++t) types.push_back(*t);
  }
  types.push_back(ggml_backend_dev_buffer_type(cpu));
  return types;
}

bool takes(ggml_backend_buffer_type_t type, ggml_tensor* weight, ggml_context* scratch) {
  ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  ggml_tensor* x = ggml_new_tensor_2d(scratch, GGML_TYPE_F32, weight->ne[0], 512);
  ggml_tensor* y = ggml_mul_mat(scratch, weight, x);
  weight->buffer = ggml_backend_buft_alloc_buffer(type, 0);
  const bool answer = ggml_backend_dev_supports_op(cpu, y);
  ggml_backend_buffer_free(weight->buffer);
  weight->buffer = nullptr;
  return answer;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 8) return std::fprintf(stderr, "usage: matmul TYPE OUT IN THREADS MEGABYTES REPEATS ROWS...\n"), 2;
  const ggml_type type = type_of(argv[1]);
  const int64_t out = std::atoll(argv[2]), in = std::atoll(argv[3]);
  const size_t bytes = ggml_row_size(type, in) * size_t(out);
  const int count = int(std::max<size_t>(1, (size_t(std::atoi(argv[5])) << 20) / bytes));
  const int repeats = std::atoi(argv[6]);

  ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  ggml_init_params meta{size_t(count + 8) * ggml_tensor_overhead(), nullptr, true};
  ggml_context* weights_context = ggml_init(meta);
  std::vector<ggml_tensor*> weights;
  for (int i = 0; i < count; ++i) weights.push_back(ggml_new_tensor_2d(weights_context, type, in, out));
  ggml_context* probe = ggml_init({16 * ggml_tensor_overhead(), nullptr, true});
  ggml_backend_buffer_type_t kind = nullptr;
  for (ggml_backend_buffer_type_t t : buffer_types()) {
    if (!kind && takes(t, weights.front(), probe)) kind = t;
  }
  ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(weights_context, kind);
  ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
  std::vector<float> values(size_t(in) * size_t(out));
  unsigned state = 1;
  for (float& v : values) v = float((state = state * 1664525u + 1013904223u) >> 8) / float(1 << 24) - 0.5f;
  std::vector<char> raw(bytes);
  ggml_quantize_chunk(type, values.data(), raw.data(), 0, out, in, nullptr);
  for (ggml_tensor* w : weights) ggml_backend_tensor_set(w, raw.data(), 0, bytes);

  ggml_backend_t backend = ggml_backend_cpu_init();
  ggml_backend_cpu_set_n_threads(backend, std::atoi(argv[4]));
  ggml_threadpool_params pool_params = ggml_threadpool_params_default(std::atoi(argv[4]));
  ggml_threadpool* pool = ggml_threadpool_new(&pool_params);
  ggml_backend_cpu_set_threadpool(backend, pool);
  for (int a = 7; a < argc; ++a) {
    const int64_t rows = std::atoll(argv[a]);
    ggml_context* c = ggml_init(
        {size_t(2 * count + 16) * ggml_tensor_overhead() + ggml_graph_overhead_custom(size_t(count) + 16, false), nullptr,
         true});
    ggml_tensor* x = ggml_new_tensor_2d(c, GGML_TYPE_F32, in, rows);
    ggml_set_input(x);
    ggml_cgraph* graph = ggml_new_graph_custom(c, size_t(count) + 16, false);
    for (ggml_tensor* w : weights) ggml_build_forward_expand(graph, ggml_mul_mat(c, w, x));
    ggml_gallocr_t memory = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend));
    ggml_gallocr_alloc_graph(memory, graph);
    ggml_backend_tensor_set(x, values.data(), 0, size_t(in * rows) * sizeof(float));
    std::vector<double> seconds;
    for (int r = 0; r < repeats + 1; ++r) {
      const auto start = std::chrono::steady_clock::now();
      ggml_backend_graph_compute(backend, graph);
      const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (r > 0) seconds.push_back(all / count);  // the first wakes the threads
    }
    std::sort(seconds.begin(), seconds.end());
    std::printf("%lld %.9g %s\n", (long long)rows, seconds[seconds.size() / 2], ggml_backend_buft_name(kind));
    std::fflush(stdout);
    ggml_gallocr_free(memory);
    ggml_free(c);
  }
}

#include "train/aten/head_loss.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace tutti::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Not minus infinity: the entropy would have 0 * infinity.
constexpr double kNoLogit = -1e30;

// log softmax of the chunk's logits, [rows, vocab].
at::Tensor log_probabilities(const at::Tensor& states, const at::Tensor& head,
                             const HeadOptions& options) {
  at::Tensor logits = states.matmul(head.t());
  if (options.never >= 0) logits.select(1, options.never).fill_(kNoLogit);
  return logits.log_softmax(1);
}

// At the entropy's temperature.
at::Tensor tempered(const at::Tensor& log_p, double temperature) {
  return temperature == 1 ? log_p : (log_p / temperature).log_softmax(1);
}

// Calls fn(first row, states of the chunk, log probabilities) for each chunk.
template <class Fn>
void for_each_chunk(const at::Tensor& states, const at::Tensor& head, const HeadOptions& options,
                    const Fn& fn) {
  const int64_t chunk =
      options.chunk > 0 ? options.chunk : head_chunk_rows(head.size(0), head.device());
  for (int64_t first = 0; first < states.size(0); first += chunk) {
    const at::Tensor part = states.narrow(0, first, std::min(chunk, states.size(0) - first));
    fn(first, part, log_probabilities(part, head, options));
  }
}

template <class T>
at::Tensor column_of(const std::vector<T>& values, int64_t first, int64_t n, at::Device device) {
  return at::tensor(c10::ArrayRef<T>(values.data() + first, size_t(n))).unsqueeze(1).to(device);
}

// The loss of one chunk, and its gradient by the logits.
struct ChunkLoss {
  double loss = 0;
  at::Tensor gradient;
};

ChunkLoss chunk_loss(const HeadRows& rows, const HeadOptions& options, int64_t first,
                     const at::Tensor& log_p) {
  const int64_t n = log_p.size(0);
  const at::Tensor target = column(rows.targets, first, n, log_p.device());
  const at::Tensor weight = column(rows.weights, first, n, log_p.device());
  ChunkLoss out;
  out.loss = -(log_p.gather(1, target) * weight).sum().item<double>();
  out.gradient =
      log_p.exp().scatter_add_(1, target, at::full({n, 1}, -1.0, log_p.options())).mul_(weight);
  if (rows.entropy_weights.empty()) return out;
  const at::Tensor share = column(rows.entropy_weights, first, n, log_p.device());
  const at::Tensor log_q = tempered(log_p, options.temperature), q = log_q.exp();
  const at::Tensor entropy = -(q * log_q).sum(1, true);
  out.loss += (entropy * share).sum().item<double>();
  // dH / dz = -q (log q + H) / temperature.
  out.gradient.sub_((log_q + entropy).mul_(q).mul_(share / options.temperature));
  return out;
}

class HeadLoss : public torch::autograd::Function<HeadLoss> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& states,
                            const at::Tensor& head, const HeadRows& rows,
                            const HeadOptions& options, bool of_states, bool of_head) {
    at::Tensor by_states, by_head;
    if (of_states) by_states = at::empty_like(states);
    if (of_head) by_head = at::zeros_like(head);
    double sum = 0;
    for_each_chunk(states, head, options,
                   [&](int64_t first, const at::Tensor& part, const at::Tensor& log_p) {
                     const ChunkLoss chunk = chunk_loss(rows, options, first, log_p);
                     sum += chunk.loss;
                     if (of_states)
                       by_states.narrow(0, first, part.size(0)).copy_(chunk.gradient.matmul(head));
                     if (of_head) by_head.addmm_(chunk.gradient.t(), part);
                   });
    context->save_for_backward({by_states, by_head});
    return at::full({}, sum, states.options());
  }

  static variable_list backward(AutogradContext* context, variable_list outer) {
    const variable_list saved = context->get_saved_variables();
    variable_list out(6);
    for (size_t i = 0; i < saved.size(); ++i) {
      if (saved[i].defined()) out[i] = saved[i] * outer.front();
    }
    return out;
  }
};

}  // namespace

int64_t head_chunk_rows(int64_t vocabulary, at::Device device) {
  const int64_t floats = int64_t(1) << (device.is_cpu() ? 23 : 26);
  return std::max<int64_t>(16, floats / std::max<int64_t>(vocabulary, 1) / 16 * 16);
}

at::Tensor column(const std::vector<int64_t>& values, int64_t first, int64_t n, at::Device device) {
  return column_of(values, first, n, device);
}
at::Tensor column(const std::vector<float>& values, int64_t first, int64_t n, at::Device device) {
  return column_of(values, first, n, device);
}

at::Tensor head_loss(const at::Tensor& states, const at::Tensor& head, const HeadRows& rows,
                     const HeadOptions& options) {
  const bool gradients = at::GradMode::is_enabled();
  return HeadLoss::apply(states, head, rows, options, gradients && states.requires_grad(),
                         gradients && head.requires_grad());
}

HeadView head_view(const at::Tensor& states, const at::Tensor& head,
                   const std::vector<int64_t>& targets, const HeadOptions& options) {
  const at::NoGradGuard no_gradients;
  HeadView view;
  for_each_chunk(states, head, options,
                 [&](int64_t first, const at::Tensor& part, const at::Tensor& log_p) {
                   const at::Tensor target = column(targets, first, part.size(0), log_p.device());
                   const at::Tensor right = log_p.argmax(1, true).eq(target).cpu().contiguous();
                   const at::Tensor log_q = tempered(log_p, options.temperature);
                   const at::Tensor entropy = -(log_q.exp() * log_q).sum(1).cpu().contiguous();
                   for (int64_t i = 0; i < part.size(0); ++i) {
                     view.right.push_back(right.data_ptr<bool>()[i]);
                     view.entropies.push_back(entropy.data_ptr<float>()[i]);
                   }
                 });
  return view;
}

}  // namespace tutti::train

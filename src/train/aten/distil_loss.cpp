#include "train/aten/distil_loss.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "train/aten/head_loss.h"

namespace tutti::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class DistilLoss : public torch::autograd::Function<DistilLoss> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& states,
                            const at::Tensor& teacher, const at::Tensor& head,
                            const std::vector<float>& weights, int64_t chunk, bool of_states) {
    at::Tensor by_states;
    if (of_states) by_states = at::empty_like(states);
    double sum = 0;
    for (int64_t first = 0; first < states.size(0); first += chunk) {
      const int64_t n = std::min(chunk, states.size(0) - first);
      const auto log_p_of = [&](const at::Tensor& x) {
        return x.narrow(0, first, n).matmul(head.t()).log_softmax(1);
      };
      const at::Tensor log_q = log_p_of(teacher), log_p = log_p_of(states), q = log_q.exp();
      const at::Tensor weight = column(weights, first, n, states.device());
      sum += ((log_q - log_p) * q * weight).sum().item<double>();
      if (of_states)
        by_states.narrow(0, first, n).copy_((log_p.exp() - q).mul_(weight).matmul(head));
    }
    context->save_for_backward({by_states});
    return at::full({}, sum, states.options());
  }

  static variable_list backward(AutogradContext* context, variable_list outer) {
    variable_list out(6);
    const at::Tensor by_states = context->get_saved_variables().front();
    if (by_states.defined()) out[0] = by_states * outer.front();
    return out;
  }
};

}  // namespace

at::Tensor distil_loss(const at::Tensor& states, const at::Tensor& teacher, const at::Tensor& head,
                       const std::vector<float>& weights, const DistilOptions& options) {
  const int64_t chunk =
      options.chunk > 0 ? options.chunk : head_chunk_rows(head.size(0), head.device());
  return DistilLoss::apply(states, teacher, head, weights, chunk,
                           at::GradMode::is_enabled() && states.requires_grad());
}

}  // namespace tutti::train

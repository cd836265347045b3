// From a table of named tensors to the weights of an XLNet (weight_loader.h).
#include <cstring>

#include "base/error.h"
#include "models/weight_loader.h"

namespace tutti::models {
namespace {

StoredTensor transposed(const StoredTensor& tensor, const std::string& place, OwnedBytes& owned) {
  if (tensor::info(tensor.type).quantised) {
    throw Error(ErrorKind::kUnsupported,
                place + ": tensor \"" + tensor.name +
                    "\" is quantised, and its rows are no outputs; convert the model to "
                    "F32, F16 or BF16");
  }
  const size_t element = tensor::row_bytes(tensor.type, 1);
  const size_t rows = size_t(tensor.rows), cols = size_t(tensor.cols);
  owned.push_back(std::make_shared<std::vector<std::byte>>(tensor.data.size()));
  std::byte* to = owned.back()->data();
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) {
      std::memcpy(to + (c * rows + r) * element, tensor.data.data() + (r * cols + c) * element,
                  element);
    }
  }
  StoredTensor out = tensor;
  out.rows = tensor.cols;
  out.cols = tensor.rows;
  out.data = *owned.back();
  return out;
}

}  // namespace

StoredWeights load_xlnet_weights(const Config& c, const TensorLayout& t, TensorTable& table,
                                 OwnedBytes& owned) {
  const int64_t width = int64_t(c.heads) * c.head_dim;
  // [hidden, heads, head_dim] in the file; the table hands out rows of the last dimension.
  const auto stored = [&](const std::string& name) {
    StoredTensor tensor = table.take(name, {c.hidden, c.heads, c.head_dim});
    tensor.rows = c.hidden;
    tensor.cols = int(width);
    return tensor;
  };
  const auto projection = [&](const std::string& name) {
    return transposed(stored(name), table.place(), owned);
  };
  const auto by_head = [&](const std::string& name) {
    return table.take(name, {c.heads, c.head_dim});
  };
  StoredWeights w;
  w.embedding = table.take(t.embedding, {c.vocab, c.hidden});
  if (!c.tied_head) w.head = table.take(t.head, {c.vocab, c.hidden});
  w.head_bias = table.take_if(t.head_bias, {c.vocab});
  w.mask = table.take(t.mask, {c.hidden});
  for (int i = 0; i < c.layers; ++i) {
    const std::string at = t.layer_prefix + std::to_string(i) + ".";
    auto& l = w.layers.emplace_back();
    l.q.weight = projection(at + t.q);
    l.k.weight = projection(at + t.k);
    l.v.weight = projection(at + t.v);
    l.o.weight = stored(at + t.o);
    l.relative = projection(at + t.relative);
    l.content_bias = by_head(at + t.content_bias);
    l.position_bias = by_head(at + t.position_bias);
    l.segment_bias = by_head(at + t.segment_bias);
    l.segment_keys = table.take(at + t.segment_keys, {2, c.heads, c.head_dim});
    l.attn_norm = table.take(at + t.attn_norm + ".weight", {c.hidden});
    l.attn_norm_bias = table.take(at + t.attn_norm + ".bias", {c.hidden});
    l.up.weight = table.take(at + t.up + ".weight", {c.intermediate, c.hidden});
    l.up.bias = table.take(at + t.up + ".bias", {c.intermediate});
    l.down.weight = table.take(at + t.down + ".weight", {c.hidden, c.intermediate});
    l.down.bias = table.take(at + t.down + ".bias", {c.hidden});
    l.ffn_norm = table.take(at + t.ffn_norm + ".weight", {c.hidden});
    l.ffn_norm_bias = table.take(at + t.ffn_norm + ".bias", {c.hidden});
  }
  return w;
}

}  // namespace tutti::models

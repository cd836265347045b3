// From a table of named tensors to the weights of a transformer: the one place where shapes are
// checked.
#pragma once

#include "models/config.h"
#include "models/stored_tensor.h"
#include "models/tensor_layout.h"
#include "models/tensor_table.h"

namespace tutti::models {

// `config` has passed check_config. Rows of interleaved Q and K come back half-split, norms as what
// they multiply by; such changed tensors live in `owned`. Takes every tensor the model uses from
// `table`; the caller then asks it for those that are left. Throws Error(kBadFile | kUnsupported)
// naming the tensor.
StoredWeights load_weights(const Config& config, const TensorLayout& layout, TensorTable& table,
                           OwnedBytes& owned);

// The same for XLNet, whose projections are stored [in, heads, head_dim] and come back as [heads *
// head_dim, in].
StoredWeights load_xlnet_weights(const Config& config, const TensorLayout& layout,
                                 TensorTable& table, OwnedBytes& owned);

// The same for BERT.
StoredWeights load_bert_weights(const Config& config, const TensorLayout& layout,
                                TensorTable& table);

// Rows of `heads` heads from pairs (2i, 2i + 1), i < pairs, to (i, i + pairs); the rest of a head
// stays. Whole stored rows move, so the values are exact in every type. A bias (one row) moves by
// elements.
StoredTensor half_split(const StoredTensor& tensor, int heads, int pairs, OwnedBytes& owned);

}  // namespace tutti::models

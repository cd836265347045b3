// What a draft model in training takes from its target: embeddings through a map that is trained,
// and the numbering of tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "models/batch.h"
#include "train/aten/head_loss.h"

namespace tutti::train {

// The embeddings of the model that `name` finds, [vocab, width] in fp32; no gradient is taken by
// them.
at::Tensor target_embeddings(const std::string& name);

// The `count` directions, [count, width], in which the rows of `table` [vocab, width] differ most:
// orthonormal, and at right angles to what all rows have in common, their mean. A map that begins
// with them keeps which tokens are alike, and a draft model need not learn that anew.
at::Tensor principal_directions(const at::Tensor& table, int64_t count);

// The embeddings that the tokens of `batch` use, [tokens, hidden]: those of `table` times `map`
// [hidden, width] transposed. The batch's inputs become their row numbers there: so a step maps
// hundreds of tokens, not the vocabulary.
at::Tensor mapped_embeddings(const at::Tensor& table, const at::Tensor& map, models::Batch& batch);

// A JSON list of ids, ascending. Throws Error(kBadFile) when it is not one.
std::vector<int32_t> read_head_tokens(const std::filesystem::path& path);

// Targets as rows of a head that has `tokens` only, ascending. What it cannot say weighs nothing.
void name_head_rows(const std::vector<int32_t>& tokens, HeadRows& rows);

}  // namespace tutti::train

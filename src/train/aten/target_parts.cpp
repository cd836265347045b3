#include "train/aten/target_parts.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "base/error.h"
#include "base/files.h"
#include "formats/json_text.h"
#include "models/aten/tensor_ops.h"
#include "models/find_model.h"

namespace tutti::train {

at::Tensor target_embeddings(const std::string& name) {
  const auto checkpoint = models::Checkpoint::open(models::find_model(name));
  const models::StoredTensor& table = checkpoint.weights().embedding;
  return at::tensor(table.floats()).view({table.rows, table.cols});
}

at::Tensor principal_directions(const at::Tensor& table, int64_t count) {
  const at::Tensor rows = table.to(at::kDouble), mean = rows.mean(0);
  const at::Tensor common = (mean / mean.norm()).unsqueeze(1);
  const at::Tensor apart = rows - rows.matmul(common).matmul(common.t());
  const at::Tensor vectors = std::get<1>(at::linalg_eigh(apart.t().matmul(apart)));
  return vectors.narrow(1, vectors.size(1) - count, count).t().contiguous().to(table.dtype());
}

at::Tensor mapped_embeddings(const at::Tensor& table, const at::Tensor& map, models::Batch& batch) {
  std::map<int32_t, int32_t> rows;
  for (const models::RowInput& in : batch.inputs) rows.emplace(in.token, 0);
  std::vector<int64_t> tokens;
  for (auto& [token, row] : rows) {
    row = int32_t(tokens.size());
    tokens.push_back(token);
  }
  for (models::RowInput& in : batch.inputs) in.token = rows.at(in.token);
  return table.index_select(0, at::tensor(tokens, at::kLong).to(table.device()))
      .matmul(map.t())
      .to(map.dtype());
}

std::vector<int32_t> read_head_tokens(const std::filesystem::path& path) {
  const nlohmann::json list = formats::parse_json(read_file(path), path.string());
  std::vector<int32_t> tokens;
  for (const auto& token : list) {
    if (!token.is_number_integer() || token < 0 || token > INT32_MAX ||
        (!tokens.empty() && token <= tokens.back())) {
      throw Error(ErrorKind::kBadFile,
                  path.string() + ": wants a list of token ids, each above the one before");
    }
    tokens.push_back(token.get<int32_t>());
  }
  if (tokens.empty()) throw Error(ErrorKind::kBadFile, path.string() + ": names no token");
  return tokens;
}

void name_head_rows(const std::vector<int32_t>& tokens, HeadRows& rows) {
  for (size_t i = 0; i < rows.targets.size(); ++i) {
    const auto at = std::lower_bound(tokens.begin(), tokens.end(), rows.targets[i]);
    const bool there = at != tokens.end() && *at == rows.targets[i];
    if (!there) rows.weights[i] = 0;
    rows.targets[i] = there ? at - tokens.begin() : 0;
  }
}

}  // namespace tutti::train

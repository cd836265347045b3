// A model as it lies on disk: its configuration and its tensors, from a GGUF file or a Hugging Face
// folder, under one set of names. Q/K rows of interleaved-rotary checkpoints come permuted to the
// half-split layout.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "formats/gguf.h"
#include "formats/model_folder.h"
#include "models/config.h"
#include "models/stored_tensor.h"
#include "models/tensor_table.h"

namespace tutti::models {

// Every tensor of a folder, none taken. `owned` keeps what does not lie in the folder's maps.
TensorTable folder_tensors(const formats::ModelFolder& folder, OwnedBytes& owned);
// Whether a tensor belongs to a vision tower or its projector (src/vision), not to the language
// model.
bool is_vision_tensor(const std::string& name);

// A classifier over an encoder's first state h: logits = classifier tanh(pooler h).
struct ScoreHead {
  Linear<StoredTensor, StoredTensor> pooler;      // [hidden, hidden]
  Linear<StoredTensor, StoredTensor> classifier;  // [labels, hidden]
};

class Checkpoint {
 public:
  // A .gguf file or a folder with config.json and safetensors. Throws Error(kNotFound | kBadFile |
  // kUnsupported): an unknown architecture, scaling or tensor is named.
  static Checkpoint open(const std::filesystem::path& path);
  // The same from an opened GGUF (tests, fuzzing).
  static Checkpoint from_gguf(std::shared_ptr<const formats::Gguf> gguf);
  static Checkpoint from_folder(std::shared_ptr<const formats::ModelFolder> folder);

  const Config& config() const { return config_; }
  // Of a draft model without embeddings (Config::embedding_width) `embedding` is the map, until
  // take_embeddings.
  const StoredWeights& weights() const { return weights_; }
  // Of such a model: its embeddings become the target's `table` [vocab, embedding_width] times its
  // map, rounded to fp16, and embedding_width 0. Others stay as they are. Throws
  // Error(kUnsupported) when the table has another shape.
  void take_embeddings(const StoredTensor& table);
  // Of an encoder that was trained to judge texts (BertForSequenceClassification).
  const std::optional<ScoreHead>& score_head() const { return score_head_; }
  // What it was opened from: exactly one is set. The tokenizer is read from there.
  const std::shared_ptr<const formats::Gguf>& gguf() const { return gguf_; }
  const std::shared_ptr<const formats::ModelFolder>& folder() const { return folder_; }
  // A hash of the stamps of its files and of all else that decides what its weights are; nullopt
  // for what lies in memory or changed so short a while ago that another change could leave the
  // same stamp.
  std::optional<uint64_t> identity() const;
  // Takes pages of the files' maps out of this process's memory, those of `part` or all
  // (MappedFile::forget).
  void forget(std::span<const std::byte> part) const;
  void forget_all() const;

 private:
  const std::vector<std::shared_ptr<MappedFile>>& files() const;

  Config config_;
  StoredWeights weights_;
  std::optional<ScoreHead> score_head_;
  std::shared_ptr<const formats::Gguf> gguf_;
  std::shared_ptr<const formats::ModelFolder> folder_;
  OwnedBytes owned_;  // what stored tensors point into beside the file's map
};

}  // namespace tutti::models

// A model that is to be written as GGUF: metadata and tensors under GGUF's names and in GGUF's
// order of dimensions, from a GGUF file or from a Hugging Face folder. Rows are read on demand from
// the maps of the files.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "convert/tensor_types.h"
#include "formats/gguf.h"
#include "models/checkpoint.h"

namespace tutti::convert {

struct SourceTensor {
  // Stored rows, contiguous.
  struct Part {
    tensor::Type type = tensor::Type::kF32;
    std::span<const std::byte> bytes;
  };

  TensorFacts facts;  // `stored`: the first part's
  std::vector<Part>
      parts;  // stacked along the slowest dimension: experts, each its own tensor in a folder
  // Of Q and K for the architecture llama: the rows of each head are put in pairs, from (i, i +
  // pairs) to (2i, 2i + 1), i < pairs; the rest of a head stays. 0: rows stay where they are.
  int heads = 0, pairs = 0;

  int64_t columns() const { return int64_t(facts.dims.front()); }
  int64_t rows() const;
  uint64_t stored_bytes() const;
  // All parts have one type: rows can be copied.
  bool one_type() const;
  // The stored bytes of row r, and their type.
  Part row(int64_t r) const;
};

struct Source {
  std::string place;  // the file or folder, for errors
  std::filesystem::path path;
  ModelFacts facts;
  formats::GgufMetadata
      metadata;  // without general.file_type and general.quantization_version if from a folder
  std::vector<SourceTensor> tensors;
  std::vector<std::string> notes;  // what a person should know about a folder's conversion
  // What the tensors' bytes live in.
  std::shared_ptr<const formats::Gguf> gguf;
  std::shared_ptr<const models::Checkpoint> checkpoint;
  std::vector<std::shared_ptr<std::vector<std::byte>>> owned;

  // Throws Error(kNotFound | kBadFile | kUnsupported): also for what a folder says and GGUF cannot.
  static Source open(const std::filesystem::path& path);
};

}  // namespace tutti::convert

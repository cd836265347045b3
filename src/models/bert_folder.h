// What a BERT's folder says: config.json, the names of its tensors, a head that judges texts, and
// the files that sentence-transformers puts beside them.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "models/checkpoint.h"
#include "models/hf_keys.h"
#include "models/tensor_layout.h"
#include "models/tensor_table.h"

namespace tutti::models {

// Throws Error(kBadFile | kUnsupported) naming the key.
Config bert_config(HfKeys keys, const std::string& place);

// BertForSequenceClassification puts "bert." before the names of BertModel.
void find_bert_names(const TensorTable& table, TensorLayout& layout);

// The head of BertForSequenceClassification, if the folder has one. Marks what an encoder does not
// use: a pooler without a classifier, a head for masked tokens, the list of positions.
std::optional<ScoreHead> take_score_head(const Config& config, TensorTable& table);

// sentence_bert_config.json (max_seq_length cuts the context), 1_Pooling/config.json and
// modules.json, where they are there. Throws Error(kBadFile | kUnsupported) naming file and key: a
// kind of pooling that we do not have, a module that changes the vectors.
void read_sentence_files(const std::filesystem::path& folder, Config& config);

}  // namespace tutti::models

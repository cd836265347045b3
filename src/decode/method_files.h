// What files that options of methods name hold, read once for many requests: a server must not read
// them between the forwards of others.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "decode/ppd/files.h"
#include "train/transfer_maps.h"

namespace tutti::decode {

struct MethodFiles {
  std::string prompt_tokens, tree;                      // the options that name those of ppd
  std::shared_ptr<const ppd::Files> ppd;                // null: none
  std::string maps;                                     // the option of hidden-transfer and medusa
  std::shared_ptr<const train::TransferMaps> transfer;  // null: none
};

// Reads what these options name. Throws Error, also when it does not fit the model, and
// Error(kUsage) for an option that no method has.
std::shared_ptr<const MethodFiles> read_method_files(
    const std::map<std::string, std::string>& options, const models::Checkpoint& checkpoint);

}  // namespace tutti::decode

#include "decode/method_files.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "decode/method.h"

namespace tutti::decode {

namespace {

bool some_method_has(std::string_view option) {
  return std::ranges::any_of(methods(), [&](const Method& method) {
    return std::ranges::find(method.options, option, &MethodOption::name) != method.options.end();
  });
}

}  // namespace

std::shared_ptr<const MethodFiles> read_method_files(
    const std::map<std::string, std::string>& options, const models::Checkpoint& checkpoint) {
  for (const auto& [name, value] : options) {
    if (!some_method_has(name))
      throw Error(ErrorKind::kUsage, "option " + name + ": no method has it; see 'tutti methods'");
  }
  const auto value_of = [&](const char* name) {
    const auto found = options.find(name);
    return found == options.end() ? std::string() : found->second;
  };
  auto files = std::make_shared<MethodFiles>();
  files->prompt_tokens = value_of("prompt_tokens");
  files->tree = value_of("tree");
  if (!files->prompt_tokens.empty())
    files->ppd = ppd::read_files(files->prompt_tokens, files->tree, checkpoint.config());
  files->maps = value_of("maps");
  if (!files->maps.empty()) {
    auto maps = std::make_shared<const train::TransferMaps>(train::TransferMaps::read(files->maps));
    maps->check(checkpoint, files->maps);
    files->transfer = std::move(maps);
  }
  return files;
}

}  // namespace tutti::decode

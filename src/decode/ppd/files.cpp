#include "decode/ppd/files.h"

#include <utility>

#include "base/error.h"

namespace tutti::decode::ppd {

namespace {

speculative::TreeFile read_trees(const std::filesystem::path& folder, const std::string& given,
                                 int prompts) {
  const std::filesystem::path path =
      given.empty() ? folder / "tree.json" : std::filesystem::path(given);
  if (given.empty() && !std::filesystem::exists(path)) {
    throw Error(
        ErrorKind::kNotFound,
        path.string() + ": is not there; make it (tutti ppd tune), or name one with option tree");
  }
  speculative::TreeFile file = speculative::read_tree_file(path, "ppd");
  if (file.prompts() != prompts) {
    throw Error(ErrorKind::kUsage, path.string() + ": is of " + std::to_string(file.prompts()) +
                                       " prompt tokens, but there are " + std::to_string(prompts) +
                                       "; give the tree of these");
  }
  return file;
}

}  // namespace

std::shared_ptr<const Files> read_files(const std::string& folder, const std::string& tree,
                                        const models::Config& config) {
  if (folder.empty()) {
    throw Error(
        ErrorKind::kUsage,
        "method ppd: needs prompt tokens that were trained on the model; name their folder with "
        "option prompt_tokens");
  }
  Files files;
  files.prompts = PromptTokens::read(folder);
  files.prompts.check(config);
  files.trees = read_trees(folder, tree, files.prompts.count());
  return std::make_shared<const Files>(std::move(files));
}

}  // namespace tutti::decode::ppd

#include "decode/hidden_transfer/state_drafter.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "check/guess_kind.h"
#include "decode/generation.h"
#include "decode/method.h"
#include "decode/method_files.h"
#include "formats/json_text.h"

namespace tutti::decode::speculative {

namespace {

constexpr int kKinds = check::kGuessKinds + 1;  // the last: any first choice
// Where the maps come without measured chances.
constexpr double kExpected[kKinds] = {0.2,  0.3, 0.4,  0.5,  0.7,  0.85,
                                      0.15, 0.1, 0.06, 0.03, 0.01, 0.4};
constexpr double kFade = 0.7;  // from one offset to the next

[[noreturn]] void bad_option(const Generation& g, const char* option, const std::string& what) {
  throw Error(ErrorKind::kUsage,
              std::string("option ") + option + "=" + text_option(g, option) + ": " + what);
}

std::shared_ptr<const train::TransferMaps> read_maps(const Generation& g,
                                                     train::TransferMaps::Kind kind) {
  const std::string folder = text_option(g, "maps");
  if (folder.empty()) {
    throw Error(ErrorKind::kUsage, "method " + g.options().method +
                                       ": needs trained maps; name their folder with option maps");
  }
  const MethodFiles* read = g.options().files.get();
  std::shared_ptr<const train::TransferMaps> maps;
  if (read && read->transfer && read->maps == folder) {
    maps = read->transfer;
  } else {
    maps = std::make_shared<const train::TransferMaps>(train::TransferMaps::read(folder));
    maps->check(g.engine().model().checkpoint(), folder);
  }
  if (maps->kind != kind) {
    const bool medusa = maps->kind == train::TransferMaps::Kind::kMedusa;
    bad_option(g, "maps",
               std::string("holds maps of the kind ") + (medusa ? "medusa" : "linear") +
                   ", which method " + (medusa ? "medusa" : "hidden-transfer") + " reads");
  }
  return maps;
}

std::vector<double> expected(const train::TransferMaps& maps) {
  std::vector<double> all;
  double faded = 1;
  for (int offset = 0; offset < maps.offsets(); ++offset, faded *= kFade) {
    for (int k = 0; k < kKinds; ++k) {
      all.push_back(maps.acceptance.empty() ? kExpected[k] * faded
                                            : maps.acceptance[size_t(offset)][size_t(k)]);
    }
  }
  return all;
}

// [[0], [1], [0, 0]]: paths of ranks, each no longer than there are offsets.
std::optional<std::vector<std::vector<int>>> read_paths(const Generation& g, int offsets) {
  const std::string text = text_option(g, "paths");
  if (text == "auto") return std::nullopt;
  const nlohmann::json value = formats::parse_json(text, "option paths");
  std::vector<std::vector<int>> paths;
  const auto is_rank = [](const auto& v) {
    return v.is_number_unsigned() && v.template get<uint64_t>() < 64;
  };
  if (!value.is_array()) bad_option(g, "paths", "wants auto, or a list of paths of ranks");
  for (const auto& path : value) {
    if (!path.is_array() || path.empty() || !std::ranges::all_of(path, is_rank))
      bad_option(g, "paths", "wants paths of ranks from 0 to 63, such as [[0],[1],[0,0]]");
    if (path.size() > size_t(offsets)) {
      bad_option(g, "paths",
                 "has a path of " + std::to_string(path.size()) +
                     " guesses, but there are maps for " + std::to_string(offsets));
    }
    paths.push_back(path.get<std::vector<int>>());
  }
  return paths;
}

int widest(const std::optional<std::vector<std::vector<int>>>& paths, int otherwise) {
  if (!paths) return otherwise;
  int most = 0;
  for (const auto& path : *paths) most = std::max(most, *std::ranges::max_element(path));
  return most + 1;
}

}  // namespace

StateDrafter::StateDrafter(Generation& g, train::TransferMaps::Kind kind)
    : g_(g),
      maps_(read_maps(g, kind)),
      offsets_(int_option(g, "offsets", 0, 16)),
      nodes_(int_option(g, "nodes", 1, 512)),
      branches_(int_option(g, "branches", 1, 64)),
      experience_(experience_of(g.engine(), g.options().method + " " + text_option(g, "maps"),
                                expected(*maps_))),
      acceptance_(experience_.acceptance) {
  if (offsets_ > maps_->offsets()) {
    bad_option(g, "offsets", "there are maps for " + std::to_string(maps_->offsets()));
  }
  if (offsets_ == 0) offsets_ = maps_->offsets();
  paths_ = read_paths(g, offsets_);
  branches_ = widest(paths_, branches_);
  const std::string noise = text_option(g, "draft_noise");
  if (noise != "target" && noise != "none") bad_option(g, "draft_noise", "wants target or none");
  noise_ = noise == "target";
}

int StateDrafter::kind(int offset, int guess_kind) const { return offset * kKinds + guess_kind; }

// Descending, of a tree of first choices and of some others, by what is known of their chances.
std::vector<double> StateDrafter::typical_reaches() const {
  std::vector<Level> levels;
  for (int offset = 0; offset < offsets_; ++offset) {
    Level level;
    const double first = acceptance_[kind(offset, check::kGuessKinds)];
    // What the first choice misses, the others share: half of it the second, and so on.
    double rest = (1 - first) / 4;
    for (int rank = 0; rank < branches_; ++rank, rest /= 2)
      level.push_back({rank, 0, rank == 0 ? first : std::min(first, rest)});
    levels.push_back(std::move(level));
  }
  const Tree tree = paths_ ? named_tree(0, levels, *paths_) : best_tree(0, levels, nodes_);
  std::vector<double> reach;
  for (int i = 1; i < tree.size(); ++i) reach.push_back(tree[i].reach);
  std::sort(reach.rbegin(), reach.rend());
  return reach;
}

Carried StateDrafter::carried(const Pace& pace) {
  carrying_ = pace.carrying_pays(guessing(), typical_reaches());
  return carrying_ ? guessing() : Carried();
}

Task<Tree> StateDrafter::draft(engine::Context&, const Pace&, int) {
  for (size_t offset = 0; offset < levels_.size(); ++offset) {
    for (Guess& guess : levels_[offset]) guess.acceptance = acceptance_[guess.kind];
  }
  Tree tree = paths_ ? named_tree(g_.last_token(), levels_, *paths_)
                     : best_tree(g_.last_token(), levels_, nodes_);
  levels_.clear();
  co_return tree;
}

void StateDrafter::learn(const Tree& tree, const Accepted& accepted) {
  acceptance_.learn(tree, accepted);
  for (size_t i = 0; i < accepted.nodes.size(); ++i) {
    const std::vector<int> children = tree.children(accepted.nodes[i]);
    if (children.empty()) break;
    // Where the first choice was left out nobody knows; that another stands is not its merit.
    if (tree[children.front()].kind % kKinds >= check::kLeadKinds) continue;
    acceptance_.record(kind(int(i), check::kGuessKinds),
                       i + 1 < accepted.nodes.size() && accepted.nodes[i + 1] == children.front());
  }
}

engine::Want StateDrafter::guess(int position) const {
  engine::Want want = g_.rule().want(position);
  engine::Sampling& s = want.sampling;
  s.ranked = std::min(std::max(branches_, 2), g_.engine().model().config().vocab);
  s.ranked_probabilities = false;
  s.logprobs = -1;
  if (g_.rule().constrained()) s.allowed = nullptr;
  if (!noise_) s.temperature = 0;
  return want;
}

void StateDrafter::set_level(int offset, const engine::RowAnswer& answer) {
  const auto& ranked = answer.picked.ranked;
  Level level;
  for (size_t r = 0; r < ranked.size() && int(r) < branches_; ++r) {
    const double first = ranked[0].height,
                 second = ranked.size() > 1 ? ranked[1].height : first - 1e9;
    level.push_back({ranked[r].token,
                     kind(offset, check::guess_kind(int(r), first, second, ranked[r].height)), 0});
  }
  if (levels_.size() <= size_t(offset)) levels_.resize(size_t(offset) + 1);
  levels_[size_t(offset)] = std::move(level);
}

Task<void> StateDrafter::guess_from(engine::Context& context,
                                    std::vector<std::vector<float>> states) {
  engine::Rows rows;
  const engine::ViewId nothing = rows.add_view({});
  // The last pick is the next root and not in the Context yet: the first guess is of the token
  // after it.
  const int first = context.next_position() + 1;
  for (size_t offset = 0; offset < states.size(); ++offset) {
    engine::Row row;
    row.in.kind = engine::RowInput::kVector;
    row.in.vector = std::move(states[offset]);
    row.active.enter = g_.engine().model().config().layers;
    row.position = engine::Position(first - 1);
    row.view = nothing;
    row.write = engine::Write::none();
    row.want = guess(first + int(offset));
    rows.rows.push_back(std::move(row));
  }
  ++g_.statistics().draft_forwards;
  const engine::Answer answer = co_await g_.forward(context, std::move(rows));
  for (size_t offset = 0; offset < answer.rows.size(); ++offset)
    set_level(int(offset), answer.rows[offset]);
}

std::vector<MethodOption> state_options() {
  return {{"maps", "", "folder of the trained maps (tutti train, loss kind transfer)"},
          {"offsets", "0", "tokens ahead that are guessed, 1 to as many as have maps; 0: all"},
          {"nodes", "8", "drafts of a forward at most, 1 to 512"},
          {"branches", "4", "guesses per token ahead, 1 to 64"},
          {"paths", "auto",
           "auto: the drafts of largest expected reach; or paths of ranks: [[0],[1],[0,0]]"},
          {"draft_noise", "target",
           "target: ranked with the noise of the target's pick; none: the likeliest"},
          {"adaptive", "1", "1: draft only what pays by the engine's measured costs; 0: all"}};
}

}  // namespace tutti::decode::speculative

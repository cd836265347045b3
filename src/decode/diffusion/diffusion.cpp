#include "decode/diffusion/diffusion.h"

#include <algorithm>

#include "base/error.h"
#include "decode/diffusion/denoiser.h"
#include "decode/draft_counts.h"

namespace tutti::decode {
namespace diffusion {
namespace {

std::vector<Commit> commits_of(const std::vector<Prediction>& predictions,
                               const std::vector<int>& chosen) {
  std::vector<Commit> commits;
  for (const int i : chosen) {
    const Prediction& p = predictions[size_t(i)];
    commits.push_back({p.position, p.token, p.log_probability});
  }
  return commits;
}

// Those of the first `end` positions: what lies behind is asked for other reasons.
std::vector<Prediction> before(const std::vector<Prediction>& predictions, int end) {
  std::vector<Prediction> out;
  std::ranges::copy_if(predictions, std::back_inserter(out),
                       [&](const Prediction& p) { return p.position < end; });
  return out;
}

// A sequence as it would stand some steps ahead.
struct Draft {
  Canvas canvas;
  Pace pace;
  std::vector<Commit> commits;  // since the state that was looked at
};

// What the policy writes next on `draft`, whose predictions are given; empty when its block is
// beyond them.
std::vector<Commit> step_of(Policy& policy, Draft& draft,
                            const std::vector<Prediction>& predictions) {
  draft.pace.enter(draft.canvas);
  std::vector<Prediction> block;
  for (const Prediction& p : predictions) {
    if (p.position >= draft.canvas.begin() && p.position < draft.canvas.end()) block.push_back(p);
  }
  if (std::ranges::none_of(block, &Prediction::open)) return {};
  const std::vector<int> chosen = policy.choose(draft.pace.step(draft.canvas), block);
  return commits_of(block, chosen);
}

void write_step(Draft& draft, std::span<const Commit> commits) {
  draft.canvas.commit(commits);
  draft.commits.insert(draft.commits.end(), commits.begin(), commits.end());
  draft.pace.advance();
}

bool ends(const Generation& g, std::span<const Commit> commits) {
  return std::ranges::any_of(commits, [&](const Commit& c) { return g.is_end(c.token); });
}

// D_1 is the policy's own next state; each further draft writes one step's worth of the same
// predictions more, block by block, the best first.
std::vector<Draft> drafts_of(Denoiser& d, const Generation& g, const Draft& now,
                             const std::vector<Prediction>& predictions, int end) {
  std::vector<Draft> drafts{now};
  drafts.back().commits.clear();
  write_step(drafts.back(), step_of(d.policy(), drafts.back(), predictions));
  const std::vector<float> s = scores(predictions, d.policy().order(), d.options().policy.key, 0);
  const std::vector<int> rank = ranked(predictions, s);
  const int most = std::min(d.options().draft_steps, d.states_that_fit());
  while (int(drafts.size()) < most) {
    // Behind an end of the text the sequence may be cut.
    if (d.options().cut != Cut::kOff && ends(g, drafts.back().commits)) break;
    Draft next = drafts.back();
    if (next.canvas.begin() >= end) break;
    next.pace.enter(next.canvas);
    const int least = next.pace.step(next.canvas).least;
    std::vector<Commit> more;
    for (const int i : rank) {
      const Prediction& p = predictions[size_t(i)];
      const bool fits =
          p.position < next.canvas.end() && p.position < end && next.canvas.open(p.position);
      if (fits && int(more.size()) < least)
        more.push_back({p.position, p.token, p.log_probability});
    }
    if (more.empty()) break;
    write_step(next, more);
    drafts.push_back(std::move(next));
  }
  return drafts;
}

// Whether everything that `draft` has written stands in `step`.
bool part_of(const Canvas& draft, const Canvas& step) {
  for (int p = 0; p < draft.size(); ++p) {
    if (!draft.open(p) && draft.tokens()[size_t(p)] != step.tokens()[size_t(p)]) return false;
  }
  return true;
}

void check_freedave(const Denoiser& d, const Generation& g, const Policy& policy) {
  const DiffusionOptions& o = d.options();
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorKind::kUsage, "freedave: " + what);
  };
  if (!policy.stateless()) refuse("order=random draws anew at each step; use another order");
  if (o.cache == Cache::kDelayed || o.warmup > 0 || o.refresh_every > 1 || o.smoothing > 0) {
    refuse(
        "what a forward sees must not depend on how many there were before; leave cache=delayed, "
        "warmup, "
        "refresh_every and smoothing out");
  }
  if (o.fresh_noise && !g.options().sampling.greedy()) {
    refuse("noise=forward draws anew at each forward; use noise=position");
  }
  if (o.cut == Cut::kReference)
    refuse("cut=reference changes the sequence by predictions; use cut=committed or off");
}

Task<void> freedave(Denoiser& d, Generation& g) {
  check_freedave(d, g, d.policy());
  // Blocks that a draft may reach beyond its own; a later block's predictions hold only where no
  // earlier one can change what it sees.
  const bool eager = d.options().eager && d.block_causal();
  Draft now{d.canvas(), d.pace(), {}};
  std::vector<Prediction> predictions;
  bool known = false;  // predictions are those of `now`
  while (!d.finished()) {
    const Canvas& canvas = d.canvas();
    const int ahead = (d.options().draft_steps + canvas.block() - 1) / canvas.block();
    const int blocks = eager ? 1 + std::min(ahead, d.free_rows() / (4 * canvas.block())) : 1;
    const int end = canvas.end_after(blocks);
    if (!known) {
      std::vector<const Canvas*> state{&canvas};
      predictions = std::move((co_await d.look(state, blocks)).front());
    }
    std::vector<Draft> drafts = drafts_of(d, g, now, predictions, end);
    // A draft that leaves nothing to do needs no predictions, and neither does what comes behind
    // it.
    std::vector<const Canvas*> looked;
    for (const Draft& draft : drafts) {
      if (draft.canvas.begin() >= end || d.finishes(draft.canvas)) break;
      looked.push_back(&draft.canvas);
    }
    size_t accepted = 0;  // index of the draft that stands
    std::vector<std::vector<Prediction>> seen;
    if (!looked.empty()) {
      seen = co_await d.look(looked, blocks);
      for (;;) {
        if (accepted >= seen.size()) break;
        Draft verified = drafts[accepted];
        const std::vector<Commit> step = step_of(d.policy(), verified, seen[accepted]);
        if (step.empty()) break;
        write_step(verified, step);
        size_t next = accepted;
        for (size_t j = accepted + 1; j < drafts.size(); ++j) {
          const bool agrees =
              d.options().verify_exact
                  ? j == accepted + 1 && drafts[j].canvas.tokens() == verified.canvas.tokens()
                  : part_of(drafts[j].canvas, verified.canvas);
          if (agrees) next = j;
        }
        if (next == accepted) break;
        // What the policy wrote there, it wrote with these probabilities.
        if (next == accepted + 1 && drafts[next].canvas.tokens() == verified.canvas.tokens()) {
          drafts[next].commits = std::move(verified.commits);
        }
        accepted = next;
      }
      g.statistics().proposed += drafts.size() - 1;
      g.statistics().accepted += accepted;
      count_drafts(g.statistics(), drafts.size() - 1, accepted);
    }
    d.commit(drafts[accepted].commits, predictions);
    now = std::move(drafts[accepted]);
    const bool cut = d.canvas().size() != now.canvas.size();
    if (cut) now.canvas = d.canvas();
    known = accepted < seen.size() && !cut;
    if (known) predictions = std::move(seen[accepted]);
  }
}

}  // namespace

Task<void> denoise(Generation& g, std::unique_ptr<Policy> policy) {
  if (g.done()) co_return;
  Denoiser d(g, std::move(policy));
  Pace pace = d.pace();
  while (!d.finished()) {
    if (pace.enter(d.canvas())) d.policy().begin_block(pace.open_at_start());
    std::vector<const Canvas*> state{&d.canvas()};
    const std::vector<Prediction> all = std::move((co_await d.look(state)).front());
    std::vector<Prediction> block = before(all, d.canvas().end());
    const std::vector<int> chosen = d.policy().choose(pace.step(d.canvas()), block);
    pace.advance();
    d.commit(commits_of(block, chosen), all);
  }
  d.close();
}

}  // namespace diffusion

Task<void> diffusion_method(Generation& g) { co_await diffusion::denoise(g, nullptr); }

Task<void> freedave_method(Generation& g) {
  if (g.done()) co_return;
  diffusion::Denoiser d(g);
  co_await diffusion::freedave(d, g);
  d.close();
}

}  // namespace tutti::decode

// The forwards of one answer of a masked model: which rows go in, whose keys and values are kept,
// what comes back. The methods over it (diffusion.cpp) decide what is written.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "decode/diffusion/canvas.h"
#include "decode/diffusion/options.h"
#include "decode/diffusion/pace.h"
#include "decode/diffusion/policy.h"
#include "decode/generation.h"

namespace tutti::decode::diffusion {

class Denoiser {
 public:
  // Throws Error(kUsage | kUnsupported | kLimit): options that the model or each other rule out.
  // `policy`: instead of the one that the options name; null: that one.
  explicit Denoiser(Generation& g, std::unique_ptr<Policy> policy = nullptr);

  const DiffusionOptions& options() const { return options_; }
  const Canvas& canvas() const { return canvas_; }
  Policy& policy() { return *policy_; }
  Pace pace() const { return Pace(steps_per_block_); }
  bool block_causal() const { return block_causal_; }
  // Rows that the free pages hold, and how many states as large as the last forward's; at least 1.
  int free_rows() const;
  int states_that_fit() const;
  // Whether nothing is left to do.
  bool finished() const;
  // Whether nothing would be left to do with this in place of canvas(). Stop strings are not looked
  // for.
  bool finishes(const Canvas& state) const;

  // What the model says about the open positions of each state's block (of written ones, too, if
  // the policy looks at them), and of blocks behind it up to `blocks` in all. States differ from
  // canvas() in written positions only. One forward.
  Task<std::vector<std::vector<Prediction>>> look(std::vector<const Canvas*> states,
                                                  int blocks = 1);
  // Writes to the canvas and lets out what is settled. `predictions`: what the last look said about
  // it; for end tokens.
  void commit(std::span<const Commit> commits, std::span<const Prediction> predictions);
  // Ends the text. Call once, at the end.
  void close();

 private:
  void pin_structure();
  bool refresh_due() const;
  std::vector<int> positions_fed(const std::vector<int>& wanted) const;
  std::vector<int> positions_wanted(const Canvas& state, int end) const;
  engine::Row row_of(const Canvas& state, int position) const;
  engine::Want want_of(int position) const;
  void add_store_rows(engine::Rows& rows, int end) const;
  // Rows of the states' blocks, after those that store what is finished. Positions fed, ascending.
  std::vector<int> add_block_rows(engine::Rows& rows, const std::vector<const Canvas*>& states,
                                  int end) const;
  // Rows of the states under full attention: of the whole sequence, or of what the cache does not
  // keep.
  std::vector<int> add_rows(engine::Rows& rows, const std::vector<const Canvas*>& states,
                            const std::vector<int>& wanted, bool whole, bool append) const;
  // Who is asked about a position.
  struct Asked {
    int position;
    size_t row;
  };
  // `offset`: the state's first row.
  std::vector<Asked> ask(engine::Rows& rows, const Canvas& state, int end,
                         const std::vector<int>& fed, size_t offset) const;
  // Keeps what the next forward's inputs mix in.
  void expect(const std::vector<Asked>& asked, const engine::Answer& answer);
  // One query against context_; with guidance, also against unguided_.
  Task<engine::Answer> forward(engine::Rows rows);
  Task<void> store_until(int end);
  Prediction read(const Canvas& state, int position, const engine::RowAnswer& answer) const;
  void count_waits(std::span<const Commit> commits, std::span<const Prediction> predictions);
  void cut_at_end(std::span<const Commit> commits, std::span<const Prediction> predictions);
  void emit_settled();
  // Tells the listener of a forward, and what was written after it.
  void report(std::string_view kind, int rows, std::span<const Commit> commits);
  void report_look();

  Generation& g_;
  DiffusionOptions options_;
  Canvas canvas_;
  std::unique_ptr<Policy> policy_;
  engine::Context context_, unguided_;
  bool block_causal_, shifted_;
  int steps_per_block_ = 0;
  engine::Sampling sampling_;
  bool plain_argmax_;  // the token is the argmax: statistics of the logits say it all
  int looks_ = 0, since_refresh_ = 0;
  int refreshed_block_ = -1;
  std::vector<bool> cached_;            // kDelayed: positions whose keys and values stand
  std::vector<engine::Picked> picked_;  // by position, of written ones
  std::vector<std::vector<std::pair<int32_t, float>>>
      expected_;  // smoothing: by position, ids and probabilities
  int smoothing_step_ = 0;
  struct Leader {
    int32_t token = -1;
    int steps = 0;  // commits for which it has been the likeliest without a break
  };
  std::vector<Leader> leaders_;  // by position
  int emitted_;                  // positions let out
  int fed_ = 0;                  // positions of a state in the last forward
  std::string_view looked_;      // kind of a forward that was not reported yet
  int looked_rows_ = 0;
};

}  // namespace tutti::decode::diffusion

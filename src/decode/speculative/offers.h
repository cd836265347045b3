// What the requests of an engine would draft in its next forward, so that one decision is made over
// all of them. Each for itself would count the others' drafts as paid: the first one beside sixteen
// streams begins a tile of rows, the next ones find it begun, and all together are not worth it; or
// none begins it, though eight of them would be.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tutti::decode::speculative {

class Offers {
 public:
  // Of a request's drafts the expected reaches, for the forward after the engine's first `tick`.
  // Returns its number in this forward. `probing`: some are to be tried though they do not seem to
  // pay.
  int put(uint64_t tick, std::span<const double> reach, bool probing);

  // Of all that were offered for this forward, descending; among equals in the order of put().
  std::span<const double> reaches();
  int requests() const { return requests_; }
  bool probing() const { return probing_; }
  // How many of them are taken, by whoever decided first since the last put().
  std::optional<int> taken() const { return taken_; }
  void take(int drafts) { taken_ = drafts; }
  // Of the `taken` drafts of most reach, those of `request`.
  int part(int request, int taken);

  // Since the engine began: drafts that were put down after a decision, and tokens that they won.
  uint64_t drafted = 0, won = 0;

 private:
  struct Draft {
    double reach;
    int request;
  };
  void sort();

  uint64_t tick_ = 0;
  int requests_ = 0;
  bool probing_ = false;
  bool sorted_ = true;
  std::optional<int> taken_;
  std::vector<Draft> drafts_;
  std::vector<double> reaches_;
};

}  // namespace tutti::decode::speculative

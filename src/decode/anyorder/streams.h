// The two streams of an any-order model as rows of queries: content rows of what is decided, query
// rows of what is asked.
#pragma once

#include <span>
#include <vector>

#include "decode/anyorder/infill.h"

namespace tutti::decode::anyorder {

// One text being decided in its order. Rank r is the r-th blank.
class Streams {
 public:
  // `cached` false: each forward starts from nothing and computes every content row again.
  Streams(engine::Engine& engine, std::shared_ptr<engine::Request> request, const InfillTask& task,
          bool cached);

  int blanks() const { return int(order_.size()); }
  int decided() const { return decided_; }
  int position(int rank) const { return order_[size_t(rank)]; }
  const std::vector<int32_t>& tokens() const { return tokens_; }

  // One forward: what is wanted at ranks decided(), decided() + 1, …, one want each. The query of
  // rank decided() + i sees what is decided and the first i of `proposed`, as far as there are as
  // many.
  Task<std::vector<engine::RowAnswer>> ask(std::span<const int32_t> proposed,
                                           std::vector<engine::Want> wants);
  // Decides the next tokens. Of those that are the last ask's proposals the content rows are kept.
  void decide(std::span<const int32_t> tokens);

 private:
  struct Content {
    int position;
    int32_t token;
  };
  engine::Rows content_rows(std::span<const int32_t> proposed) const;

  engine::Engine& engine_;
  std::shared_ptr<engine::Request> request_;
  engine::Context context_;
  bool cached_;
  std::vector<int32_t> tokens_;
  std::vector<int> order_;
  std::vector<Content> pending_;  // decided, without keys and values in the Context
  int given_ = 0;                 // of the pending rows at the beginning, those that see each other
  std::vector<int32_t> proposed_;  // whose content rows are the Context's last
  int decided_ = 0;
};

}  // namespace tutti::decode::anyorder

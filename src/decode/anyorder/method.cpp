#include "decode/anyorder/method.h"

#include <utility>

#include "base/error.h"
#include "decode/anyorder/infill.h"

namespace tutti::decode {
namespace anyorder {
namespace {

const MethodOption kOrder{"order", "lattice",
                          "in which blanks are decided: lattice (left to right), reversed, random"};

std::vector<int> order_of(const Generation& g, std::span<const int32_t> tokens) {
  const std::string name = text_option(g, "order");
  if (name == "lattice") return lattice_order(tokens);
  if (name == "reversed") return reversed_order(tokens);
  if (name == "random") return random_order(tokens, g.draw_key(0).seed);
  throw Error(ErrorKind::kUsage, "option order=" + name + ": wants lattice, reversed or random");
}

Accept accept_of(const std::string& name) {
  if (name == "match") return Accept::kMatch;
  if (name == "reject") return Accept::kReject;
  throw Error(ErrorKind::kUsage, "option accept=" + name + ": wants match or reject");
}

DraftBy draft_of(const std::string& name) {
  if (name == "model") return DraftBy::kModel;
  if (name == "ngram") return DraftBy::kNgram;
  throw Error(ErrorKind::kUsage, "option draft=" + name + ": wants model or ngram");
}

Task<void> run(Generation& g, InfillOptions options) {
  const DrawKey key = g.draw_key(0);
  options.sampling = g.options().sampling;
  options.seed = key.seed;
  options.request_key = key.request;
  options.path = key.path;
  InfillTask task;
  task.tokens = g.prompt();
  task.tokens.resize(g.prompt().size() + size_t(g.room()), kBlank);
  task.order = order_of(g, task.tokens);
  const Infilled filled =
      co_await infill(g.engine(), g.request(), std::move(task), std::move(options));
  MethodStatistics& s = g.statistics();
  s.forwards = filled.forwards;
  s.proposed = filled.proposed;
  s.accepted = filled.accepted;
  for (size_t p = g.prompt().size(); p < filled.tokens.size() && !g.done(); ++p) {
    engine::Picked picked;
    picked.token = filled.tokens[p];
    for (const Filled& f : filled.filled) {
      if (f.position == int(p))
        picked.log_probability = picked.raw_log_probability = float(f.log_probability);
    }
    g.emit(picked);
  }
}

}  // namespace

std::vector<MethodOption> sequential_options() { return {kOrder}; }

std::vector<MethodOption> assd_options() {
  return {
      kOrder,
      {"width", "5", "tokens drafted a round, 1 to 1024"},
      {"accept", "match",
       "match: the tokens of any-order with the same seed; reject: its law by rejection sampling"},
      {"draft", "model", "model: by the network itself; ngram: by counts of decided neighbours"},
      {"bonus", "0", "1: verify one position more than was drafted"},
      {"slack", "0",
       "added to the acceptance ratio of accept=reject; above 0 the law is not the model's"}};
}

}  // namespace anyorder

Task<void> any_order_method(Generation& g) {
  anyorder::InfillOptions options;
  options.fill = anyorder::Fill::kSequential;
  co_await anyorder::run(g, std::move(options));
}

Task<void> assd_method(Generation& g) {
  anyorder::InfillOptions options;
  options.accept = anyorder::accept_of(text_option(g, "accept"));
  options.draft = anyorder::draft_of(text_option(g, "draft"));
  options.width = int_option(g, "width", 1, 1024);
  options.bonus = int_option(g, "bonus", 0, 1) == 1;
  options.slack = number_option(g, "slack", 0, 1);
  co_await anyorder::run(g, std::move(options));
}

}  // namespace tutti::decode

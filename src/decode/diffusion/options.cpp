#include "decode/diffusion/options.h"

#include <algorithm>
#include <charconv>
#include <span>

#include "base/error.h"
#include "decode/generation.h"

namespace tutti::decode::diffusion {

void refuse(const std::string& what) { throw Error(ErrorKind::kUsage, what); }

namespace {

constexpr MethodOption kShared[] = {
    {"block_length", "auto",
     "positions that are finished before the next ones begin; 0: the whole answer; auto: those of "
     "the model's attention, "
     "else 32"},
    {"steps", "0",
     "forwards that write a fixed share each, over all blocks; 0: one position at least"},
    {"order", "confidence",
     "rank of open positions: confidence, margin, entropy, random, sequential"},
    {"cache", "none",
     "keys and values kept between forwards: none, prefix, dual, vicinity, delayed; all but none "
     "approximate unless the "
     "model's attention has blocks"},
    {"window", "16", "vicinity: positions on either side of the block that are computed, too"},
    {"warmup", "0", "forwards over the whole sequence at the beginning"},
    {"refresh_every", "0",
     "forwards until everything is computed again, as where a block begins; 0: only there "
     "(delayed: at the beginning)"},
    {"store_apart", "0",
     "1: a finished block is stored by a forward of its own (block-causal models)"},
    {"early_stop", "1",
     "0: go on behind the end of the text; what is written before it does not change"},
    {"cut", "off",
     "off; committed: the sequence ends behind a written end token; reference: behind the "
     "likeliest predicted one"},
    {"cut_probability", "0", "least probability of a predicted end token that cuts"},
    {"guidance", "0",
     "classifier-free guidance: logits move this far away from those without the prompt"},
    {"late_end", "0", "1: end tokens are written last"},
    {"no_end", "0", "1: end tokens are never written"},
    {"noise", "position",
     "of sampling: position: one draw per position; forward: a new one at each forward"},
    {"smoothing", "0",
     "share of the expected embedding in the input of open positions, at most; 0: off"},
    {"pin", "",
     "tokens that stand from the beginning: POSITION:TEXT, negative from the end; several apart by "
     "'|'"},
};

constexpr MethodOption kParameters[] = {
    {"threshold", "0.9", "threshold, hierarchy, confident, credit: least probability"},
    {"threshold_decay", "0",
     "threshold: above 0: a block's threshold begins at 1 and loses this at each step"},
    {"factor", "1", "factor: f of (n + 1)(1 - c_n) < f"},
    {"entropy", "0.5", "entropy: most nats of a position"},
    {"entropy_bound", "0.35", "entropy-bounded: most nats together"},
    {"low_threshold", "0.4", "hierarchy: least probability of the best in a run of open positions"},
};

constexpr MethodOption kDiffusion[] = {
    {"policy", "threshold",
     "static, threshold, factor, entropy, entropy-bounded, hierarchy, schedule, confident, credit, "
     "learned"},
    {"epsilon", "0.001", "schedule, confident: the time of the last step"},
    {"bernoulli", "0", "schedule: 1: every position by itself (Dream's origin)"},
    {"order_temperature", "0",
     "schedule, confident: positions are drawn by softmax(score / this); 0: the best"},
    {"credit_alpha", "0.7", "credit: strength; one step alone raises 0.85 to 0.9"},
    {"credit_decay", "0.8", "credit: what is left of it after a step"},
    {"credit_gamma", "0.2", "credit: exponent of the probability that earns it"},
    {"credit_slots", "0", "credit: tokens kept per position; 0: all"},
    {"credit_free", "0", "credit: 1: alpha and decay from the share of open positions"},
    {"credit_scope", "block", "credit_free: whose open positions: block, answer"},
    {"credit_keep", "0", "credit: 1: a token's probability is never lowered by others' credit"},
    {"filter", "", "learned: the filter's safetensors file"},
    {"accept", "0.96", "learned: least output of the filter"},
};

constexpr MethodOption kFreedave[] = {
    {"policy", "static",
     "what is reproduced: static, threshold, factor, entropy, entropy-bounded, hierarchy"},
    {"draft_steps", "4", "steps that are tried at once"},
    {"verify", "exact",
     "exact: the policy's own text; subset: also drafts that are part of a verified step "
     "(approximate)"},
    {"eager", "1", "0: drafts end with the block (block-causal models)"},
};

std::vector<MethodOption> with_shared(std::span<const MethodOption> own) {
  std::vector<MethodOption> all(own.begin(), own.end());
  all.insert(all.end(), std::begin(kParameters), std::end(kParameters));
  all.insert(all.end(), std::begin(kShared), std::end(kShared));
  return all;
}

template <class Enum>
Enum choice(const Generation& g, std::string_view option,
            std::initializer_list<std::pair<std::string_view, Enum>> values) {
  const std::string text = text_option(g, option);
  std::string names;
  for (const auto& [name, value] : values) {
    if (name == text) return value;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  throw Error(ErrorKind::kUsage,
              "option " + std::string(option) + "=" + text + ": unknown; give " + names);
}

std::vector<std::pair<int, std::string>> read_pins(const std::string& text) {
  std::vector<std::pair<int, std::string>> pins;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('|', at), text.size());
    const std::string one = text.substr(at, end - at);
    int position = 0;
    const auto [stop, error] = std::from_chars(one.data(), one.data() + one.size(), position);
    if (error != std::errc() || stop == one.data() + one.size() || *stop != ':') {
      throw Error(ErrorKind::kUsage,
                  "option pin=" + one + ": wants POSITION:TEXT, such as 0:{ or -1:}");
    }
    pins.emplace_back(position, std::string(stop + 1, one.data() + one.size()));
    at = end + 1;
  }
  return pins;
}

// Options that say something else than their default where nobody reads them.
void refuse_ignored(const Generation& g, const DiffusionOptions& o) {
  const std::string& policy = o.policy.name;
  const auto only = [&](std::initializer_list<std::string_view> options, bool read,
                        const char* where) {
    for (const std::string_view option : options) {
      if (read || !has_option(g, option) || text_option(g, option) == default_of(g, option))
        continue;
      throw Error(ErrorKind::kUsage, "option " + std::string(option) + "=" +
                                         text_option(g, option) + ": " + where + "; leave it out");
    }
  };
  const auto is = [&](std::initializer_list<std::string_view> names) {
    return std::ranges::find(names, std::string_view(policy)) != names.end();
  };
  if (!is_policy(policy)) return;  // said elsewhere
  only({"threshold"}, is({"threshold", "hierarchy", "confident", "credit"}),
       "policy has no threshold");
  only({"threshold_decay"}, is({"threshold"}), "belongs to policy threshold");
  only({"factor"}, is({"factor"}), "belongs to policy factor");
  only({"entropy"}, is({"entropy"}), "belongs to policy entropy");
  only({"entropy_bound"}, is({"entropy-bounded"}), "belongs to policy entropy-bounded");
  only({"low_threshold"}, is({"hierarchy"}), "belongs to policy hierarchy");
  only({"epsilon", "order_temperature"}, is({"schedule", "confident"}),
       "belongs to the policies schedule and confident");
  only({"bernoulli"}, is({"schedule"}), "belongs to policy schedule");
  only({"credit_alpha", "credit_decay", "credit_gamma", "credit_slots", "credit_free",
        "credit_scope", "credit_keep"},
       is({"credit"}), "belongs to policy credit");
  only({"credit_scope"}, o.policy.credit_free, "needs credit_free=1");
  only({"filter", "accept"}, is({"learned"}), "belongs to policy learned");
  only({"order"}, !is({"factor", "entropy", "entropy-bounded", "credit", "learned"}),
       "policy has a ranking of its own");
  only({"window"}, o.cache == Cache::kVicinity, "belongs to cache vicinity");
  only({"warmup"}, o.cache != Cache::kNone, "needs a cache");
  only({"cut_probability"}, o.cut == Cut::kReference, "belongs to cut=reference");
}

}  // namespace

std::vector<MethodOption> diffusion_method_options() { return with_shared(kDiffusion); }
std::vector<MethodOption> freedave_method_options() { return with_shared(kFreedave); }

DiffusionOptions read_diffusion_options(const Generation& g) {
  constexpr int kMany = 1 << 20;
  const auto flag = [&](std::string_view option) { return int_option(g, option, 0, 1) == 1; };
  const auto number = [&](std::string_view option, double least, double most) {
    return float(number_option(g, option, least, most));
  };
  DiffusionOptions o;
  const bool freedave = has_option(g, "draft_steps");
  PolicyOptions& p = o.policy;
  p.name = text_option(g, "policy");
  p.order = choice<Order>(g, "order",
                          {{"confidence", Order::kConfidence},
                           {"margin", Order::kMargin},
                           {"entropy", Order::kEntropy},
                           {"random", Order::kRandom},
                           {"sequential", Order::kSequential}});
  p.threshold = number("threshold", 0, 2);
  p.threshold_decay = number("threshold_decay", 0, 1);
  p.factor = number("factor", 0, 1e6);
  p.entropy = number("entropy", -1, 1e6);
  p.entropy_bound = number("entropy_bound", -1, 1e6);
  p.low_threshold = number("low_threshold", 0, 2);
  o.block = text_option(g, "block_length") == "auto" ? -1 : int_option(g, "block_length", 0, kMany);
  o.steps = p.steps = int_option(g, "steps", 0, kMany);
  if (!freedave) {
    p.epsilon = number("epsilon", 1e-6, 0.5);
    p.bernoulli = flag("bernoulli");
    p.order_temperature = number("order_temperature", 0, 1e6);
    p.credit_alpha = number("credit_alpha", 0, 100);
    p.credit_decay = number("credit_decay", 0, 1);
    p.credit_gamma = number("credit_gamma", 1e-6, 100);
    p.credit_slots = int_option(g, "credit_slots", 0, kMany);
    p.credit_free = flag("credit_free");
    p.credit_of_answer = choice<bool>(g, "credit_scope", {{"block", false}, {"answer", true}});
    p.credit_keep = flag("credit_keep");
    p.filter = text_option(g, "filter");
    p.accept = number("accept", 0, 1);
  } else {
    o.draft_steps = int_option(g, "draft_steps", 1, 1024);
    o.verify_exact = choice<bool>(g, "verify", {{"exact", true}, {"subset", false}});
    o.eager = flag("eager");
  }
  o.cache = choice<Cache>(g, "cache",
                          {{"none", Cache::kNone},
                           {"prefix", Cache::kPrefix},
                           {"dual", Cache::kDual},
                           {"vicinity", Cache::kVicinity},
                           {"delayed", Cache::kDelayed}});
  o.window = int_option(g, "window", 0, kMany);
  o.warmup = int_option(g, "warmup", 0, kMany);
  o.refresh_every = int_option(g, "refresh_every", 0, kMany);
  o.store_apart = flag("store_apart");
  o.early_stop = flag("early_stop");
  o.cut = choice<Cut>(
      g, "cut",
      {{"off", Cut::kOff}, {"committed", Cut::kCommitted}, {"reference", Cut::kReference}});
  o.cut_probability = number("cut_probability", 0, 1);
  o.guidance = number("guidance", -1, 1000);
  o.late_end = flag("late_end");
  o.no_end = flag("no_end");
  o.fresh_noise = choice<bool>(g, "noise", {{"position", false}, {"forward", true}});
  o.smoothing = number("smoothing", 0, 1);
  o.pins = read_pins(text_option(g, "pin"));
  refuse_ignored(g, o);
  if (freedave) {
    for (const char* stateful : {"schedule", "confident", "credit", "learned"}) {
      if (p.name != stateful) continue;
      throw Error(ErrorKind::kUsage,
                  "freedave: policy " + p.name +
                      " remembers, draws or needs a filter, so its steps are not verified side by "
                      "side; use static, threshold, factor, entropy, entropy-bounded or hierarchy");
    }
  }
  if (p.name == "confident" && p.order == Order::kEntropy && p.threshold <= 1) {
    throw Error(ErrorKind::kUsage,
                "option order=entropy: confident compares probabilities with its threshold; use "
                "order=confidence, or "
                "threshold=2 for the schedule alone");
  }
  return o;
}

void check_against_model(const Generation& g, const DiffusionOptions& o) {
  const models::Config& config = g.engine().model().config();
  if (config.attention == models::AttentionKind::kBlockCausal) {
    if (o.block >= 0 && o.block != config.attention_block) {
      refuse("option block_length=" + std::to_string(o.block) +
             ": the attention of this model has blocks of " +
             std::to_string(config.attention_block) + "; leave the option out");
    }
    if (o.cache != Cache::kNone || o.warmup > 0 || o.refresh_every > 0) {
      refuse(
          "option cache: this model keeps finished blocks, exactly; leave cache, warmup and "
          "refresh_every out");
    }
    if (config.shifted_logits)
      refuse("model: shifted logits and blocks of attention do not go together");
  } else {
    if (o.store_apart || (has_option(g, "eager") && !o.eager)) {
      refuse(
          "options store_apart and eager: are for models whose attention has blocks; leave them "
          "out");
    }
    if (o.cache == Cache::kNone && o.refresh_every > 0) {
      refuse(
          "option refresh_every: without a cache everything is computed at each forward; choose a "
          "cache");
    }
  }
  const engine::Sampling& sampling = g.options().sampling;
  if (sampling.needs_history()) {
    refuse(
        "sampling: penalties follow the order of the text, which is not the order of writing here; "
        "leave them out");
  }
  if (sampling.logprobs > 0) {
    refuse(
        "logprobs: only the token's own (0) is known of a text that is not written from left to "
        "right");
  }
  if (o.policy.name == "credit" && (!takes_argmax(sampling, o) || o.late_end)) {
    refuse(
        "policy credit: writes the likeliest token; leave sampling, bias, constraints, no_end and "
        "late_end out");
  }
}

bool takes_argmax(const engine::Sampling& sampling, const DiffusionOptions& o) {
  return sampling.greedy() && sampling.logit_bias.empty() && sampling.suppressed.empty() &&
         !sampling.allowed && !o.no_end;
}

}  // namespace tutti::decode::diffusion

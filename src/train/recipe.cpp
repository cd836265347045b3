#include "train/recipe.h"

#include "base/error.h"
#include "base/files.h"
#include "formats/json_text.h"
#include "train/model_shape.h"
#include "train/problems.h"
#include "train/strict_object.h"

namespace tutti::train {
namespace {

ModelRecipe read_model(StrictObject o, const std::filesystem::path& folder) {
  ModelRecipe m;
  m.from = o.text("from", "");
  const bool fresh = m.from.empty();
  m.family = fresh ? o.choice("family", family_names())
                   : o.choice("family", family_names(), family_names().front());
  if (!fresh && !o.has("family")) m.family.clear();
  const std::optional<int64_t> inherited = fresh ? std::nullopt : std::optional<int64_t>(0);
  const auto size = [&](const char* key, int64_t high) {
    if (!fresh && o.has(key))
      o.bad(key, "is a size of new weights; those of \"from\" have theirs, remove it");
    return int(o.integer(key, 1, high, inherited));
  };
  m.layers = size("layers", 4096);
  m.hidden = size("hidden", 1 << 20);
  m.heads = size("heads", 8192);
  m.intermediate = size("intermediate", 1 << 24);
  m.context = int(o.integer("context", 1, 1 << 24, inherited));
  m.kv_heads = int(o.integer("kv_heads", 1, 8192, std::max(m.heads, 1)));
  m.head_dim = int(o.integer("head_dim", 16, 4096, fresh ? std::max(m.hidden / m.heads, 16) : 16));
  m.rope_theta = o.number("rope_theta", 1.5, 1e12, 10000.0);
  m.norm_epsilon = o.number("norm_epsilon", 1e-12, 1e-2, 1e-5);
  m.tied_head = o.flag("tied_head", false);
  m.draft_of = o.text("draft_of", "");
  if (const std::string path = o.text("head_tokens", ""); !path.empty())
    m.head_tokens = folder / path;
  for (const char* key : {"draft_of", "head_tokens"}) {
    if (!o.has(key)) continue;
    if (!fresh || m.family != "llama") o.bad(key, "belongs to new weights of the family llama");
    if (m.tied_head) o.bad(key, "does not go with \"tied_head\"");
  }
  m.deviation = o.number("deviation", 1e-6, 10, 0.02);
  m.block = int(o.integer("block", 1, 1 << 20, 4));
  if (o.has("block") && !m.family.empty() && m.family != "sdar")
    o.bad("block", "belongs to the family sdar");
  o.finish();
  return m;
}

// `otherwise`: the model that training begins from, which has a tokenizer as well.
TokenizerRecipe read_tokenizer(StrictObject o, const std::string& otherwise) {
  TokenizerRecipe t;
  t.characters = o.text("characters", "");
  t.from = o.text("from", "");
  t.mask = o.text("mask", "");
  if (t.characters.empty() && t.from.empty()) t.from = otherwise;
  if (t.characters.empty() == t.from.empty()) {
    o.bad("characters", "and \"from\" exclude each other; give one of them");
  }
  o.finish();
  return t;
}

DataRecipe read_data(StrictObject o, const std::filesystem::path& folder) {
  DataRecipe d;
  d.generator = o.has("generator") ? o.choice("generator", problem_names()) : "";
  const auto path = [&](const char* key) {
    const std::string text = o.text(key, "");
    return text.empty() ? std::filesystem::path() : folder / text;
  };
  d.jsonl = path("jsonl");
  d.text = path("text");
  if (int(!d.generator.empty()) + int(!d.jsonl.empty()) + int(!d.text.empty()) != 1) {
    o.bad("generator", ", \"jsonl\" and \"text\" exclude each other; give exactly one");
  }
  d.length = int(o.integer("length", 2, 1 << 20));
  d.pad = o.flag("pad", false);
  o.finish();
  return d;
}

void read_guesses(StrictObject& o, LossOptions& l) {
  l.ahead = int(o.integer("ahead", 1, 16, 3));
  l.anchors = int(o.integer("anchors", 1, 1 << 20, 64));
  l.decay = o.number("decay", 1e-6, 1, 0.8);
  l.from_teacher = o.choice("teacher", {"model", "text"}, "model") == "model";
  for (const char* key : {"ahead", "anchors", "decay", "teacher"}) {
    if (o.has(key) && !guesses(l.kind))
      o.bad(key, "belongs to the kinds \"prompt-tokens\" and \"transfer\"");
  }
  for (const char* key : {"weight", "mean", "epsilon", "low", "high", "stratified", "cut"}) {
    if (o.has(key) && guesses(l.kind))
      o.bad(key, "does not go with the kinds \"prompt-tokens\" and \"transfer\"");
  }
  l.start = o.text("start", "Next 2 word Next 3 word Next 4 word");
  if (o.has("start") && l.kind != LossKind::kPromptTokens)
    o.bad("start", "belongs to the kind \"prompt-tokens\"");
}

void read_transfer(StrictObject& o, LossOptions& l) {
  TransferOptions& t = l.transfer;
  const bool own = l.kind == LossKind::kTransfer;
  t.medusa = o.choice("map", {"linear", "medusa"}, "linear") == "medusa";
  t.refined = o.flag("refined", true);
  t.see_previous = o.flag("see_previous", true);
  t.bias = o.flag("bias", true);
  t.shared = o.flag("shared", false);
  for (const char* key : {"map", "enter", "refined", "see_previous", "bias", "shared"}) {
    if (o.has(key) && !own) o.bad(key, "belongs to the kind \"transfer\"");
  }
  for (const char* key : {"enter", "refined", "see_previous"}) {
    if (o.has(key) && t.medusa) o.bad(key, "does not go with the map \"medusa\"");
  }
  if (!own || t.medusa) return;
  t.enter = o.integers("enter", 0, 4096);
  if (t.enter.size() != 1 && t.enter.size() != size_t(l.ahead)) {
    o.bad("enter", "names " + std::to_string(t.enter.size()) + " layers; give one, or one for " +
                       "each of the " + std::to_string(l.ahead) + " rows (ahead)");
  }
}

LossOptions read_loss(StrictObject o) {
  LossOptions l;
  const std::string kind = o.choice("kind", {"next-token", "masked", "block", "certainty",
                                             "any-subset", "prompt-tokens", "transfer"});
  l.kind = kind == "masked"          ? LossKind::kMasked
           : kind == "block"         ? LossKind::kBlock
           : kind == "certainty"     ? LossKind::kCertainty
           : kind == "any-subset"    ? LossKind::kAnySubset
           : kind == "prompt-tokens" ? LossKind::kPromptTokens
           : kind == "transfer"      ? LossKind::kTransfer
                                     : LossKind::kNextToken;
  const std::string weight = o.choice("weight", {"inverse", "one", "context"}, "inverse");
  l.weight = weight == "one"       ? TimeWeight::kOne
             : weight == "context" ? TimeWeight::kContext
                                   : TimeWeight::kInverse;
  const std::string mean = o.choice("mean", {"tokens", "sequences", "masked"}, "tokens");
  l.mean = mean == "sequences" ? LossMean::kSequences
           : mean == "masked"  ? LossMean::kMasked
                               : LossMean::kTokens;
  l.context = o.number("context", 1e-6, 1 - 1e-6, 0.1);
  l.epsilon = o.number("epsilon", 0, 0.5, 1e-3);
  l.low = o.number("low", 0, 1, 0.0);
  l.high = o.number("high", 0, 1, 1.0);
  if (l.low >= l.high) o.bad("high", "is not above \"low\"");
  l.time_per_block = o.flag("time_per_block", false);
  l.stratified = o.flag("stratified", false);
  l.never_mask_logit = o.flag("never_mask_logit", false);
  l.cut = o.number("cut", 0, 1, 0.0);
  l.certainty_block = int(o.integer("certainty_block", 0, 1 << 20, 32));
  l.certainty_rate = o.number("certainty_rate", 0, 1, 0.5);
  l.certainty_weight = o.number("certainty_weight", 0, 1e3, 2.0);
  l.certainty_temperature = o.number("certainty_temperature", 1e-3, 1e3, 0.5);
  for (const char* key :
       {"certainty_block", "certainty_rate", "certainty_weight", "certainty_temperature"}) {
    if (o.has(key) && l.kind != LossKind::kCertainty)
      o.bad(key, "belongs to the kind \"certainty\"");
  }
  for (const char* key : {"weight", "mean", "low", "high", "stratified"}) {
    if (o.has(key) && l.kind == LossKind::kCertainty)
      o.bad(key, "does not go with the kind \"certainty\"");
  }
  l.random_order = o.flag("random_order", false);
  l.independent = o.flag("independent", false);
  for (const char* key : {"random_order", "independent"}) {
    if (o.has(key) && l.kind != LossKind::kAnySubset)
      o.bad(key, "belongs to the kind \"any-subset\"");
  }
  for (const char* key : {"weight", "epsilon", "cut"}) {
    if (o.has(key) && l.kind == LossKind::kAnySubset)
      o.bad(key, "does not go with the kind \"any-subset\"");
  }
  read_guesses(o, l);
  read_transfer(o, l);
  if (l.time_per_block && l.kind != LossKind::kBlock)
    o.bad("time_per_block", "belongs to the kind \"block\"");
  if (l.weight == TimeWeight::kContext && l.kind != LossKind::kMasked) {
    o.bad("weight", "is \"context\", which belongs to the kind \"masked\"");
  }
  o.finish();
  return l;
}

OptimiserRecipe read_optimiser(StrictObject o) {
  OptimiserRecipe p;
  p.kind = o.choice("kind", {"adamw", "sgd"}, "adamw");
  p.learning_rate = o.number("learning_rate", 0, 1e3);
  p.beta1 = o.number("beta1", 0, 1 - 1e-9, 0.9);
  p.beta2 = o.number("beta2", 0, 1 - 1e-9, 0.999);
  p.epsilon = o.number("epsilon", 0, 1, 1e-8);
  p.weight_decay = o.number("weight_decay", 0, 10, 0.0);
  p.momentum = o.number("momentum", 0, 1 - 1e-9, 0.0);
  p.clip = o.number("clip", 0, 1e6, 0.0);
  if (p.momentum > 0 && p.kind != "sgd") o.bad("momentum", "belongs to the kind \"sgd\"");
  o.finish();
  return p;
}

Schedule read_schedule(StrictObject o, int64_t steps) {
  Schedule s;
  const std::string kind = o.choice("kind", {"constant", "linear", "cosine", "stable"}, "constant");
  s.kind = kind == "linear"   ? Schedule::kLinear
           : kind == "cosine" ? Schedule::kCosine
           : kind == "stable" ? Schedule::kStable
                              : Schedule::kConstant;
  s.warmup = o.integer("warmup", 0, steps, 0);
  s.decay = o.integer("decay", 0, steps, 0);
  s.final = o.number("final", 0, 1, 0.0);
  o.finish();
  return s;
}

LoraRecipe read_lora(StrictObject o) {
  LoraRecipe l;
  l.rank = int(o.integer("rank", 1, 4096));
  l.alpha = o.number("alpha", 0, 1e6, double(2 * l.rank));
  l.first_layer = int(o.integer("first_layer", 0, 4095, 0));
  l.targets = o.choices("targets", {"q", "k", "v", "o", "gate", "up", "down"},
                        {"q", "k", "v", "o", "gate", "up", "down"});
  o.finish();
  return l;
}

EvaluationRecipe read_evaluation(StrictObject o, const std::filesystem::path& folder) {
  EvaluationRecipe e;
  e.every = int(o.integer("every", 0, 1 << 30, 0));
  const std::string held_out = o.text("held_out", "");
  if (!held_out.empty()) e.held_out = folder / held_out;
  e.problems = int(o.integer(held_out.empty() ? "problems" : "texts", 1, 1 << 20));
  e.steps = int(o.integer("steps", 0, 1 << 20, 0));
  o.finish();
  return e;
}

}  // namespace

bool names_device(std::string_view text) {
  if (text == "cpu" || text == "cuda") return true;
  if (!text.starts_with("cuda:")) return false;
  text.remove_prefix(5);
  return !text.empty() && text.size() <= 2 && (text.size() == 1 || text[0] != '0') &&
         text.find_first_not_of("0123456789") == std::string_view::npos;
}

std::string is_device_option(const std::string& text) {
  return names_device(text) ? "" : text + " is no device; give cpu, cuda or cuda:1";
}

Recipe parse_recipe(std::string_view text, const std::string& place,
                    const std::filesystem::path& folder) {
  const nlohmann::json value = formats::parse_json(text, place);
  StrictObject o(value, place);
  Recipe r;
  r.text = text;
  r.name = o.text("name");
  r.seed = uint64_t(o.integer("seed", 0, INT64_MAX, 1));
  r.model = read_model(o.object("model"), folder);
  r.tokenizer.from = r.model.from;
  if (r.model.from.empty() || o.has("tokenizer"))
    r.tokenizer = read_tokenizer(o.object("tokenizer"), r.model.from);
  r.data = read_data(o.object("data"), folder);
  r.loss = read_loss(o.object("loss"));
  r.optimiser = read_optimiser(o.object("optimiser"));
  r.steps = o.integer("steps", 1, int64_t(1) << 40);
  const std::optional<int64_t> none = 0;  // exactly one of the two is given
  r.sequences = int(o.integer("sequences", 1, 1 << 20, o.has("tokens") ? none : std::nullopt));
  r.tokens = int(o.integer("tokens", 1, 1 << 24, none));
  if (r.sequences > 0 && r.tokens > 0)
    o.bad("tokens", "and \"sequences\" exclude each other; give one of them");
  if (r.tokens > 0 && r.tokens < r.data.length)
    o.bad("tokens", "is less than data.length, which one sequence may have");
  r.accumulate = int(o.integer("accumulate", 1, 1 << 20, 1));
  r.ema = o.number("ema", 0, 1 - 1e-9, 0.0);
  r.bf16 = o.choice("precision", {"f32", "bf16"}, "f32") == "bf16";
  r.device = o.text("device", "cpu");
  if (!names_device(r.device))
    o.bad("device",
          "is \"" + r.device + "\"; give \"cpu\", \"cuda\" or \"cuda:1\", the second GPU");
  r.save_every = o.integer("save_every", 0, int64_t(1) << 40, 0);
  if (o.has("schedule")) r.schedule = read_schedule(o.object("schedule"), r.steps);
  if (o.has("lora") && guesses(r.loss.kind))
    o.bad("lora", "does not go with this loss, which leaves all weights frozen");
  if (o.has("lora")) r.lora = read_lora(o.object("lora"));
  if (o.has("evaluation")) r.evaluation = read_evaluation(o.object("evaluation"), folder);
  if (r.evaluation.problems > 0 && r.model.family == "xlnet") {
    o.bad(
        "evaluation",
        "is by a sampler that reads no family xlnet; remove it, and fill blanks with tutti infill");
  }
  if (!r.model.draft_of.empty() && r.loss.kind != LossKind::kNextToken)
    o.bad("loss", "is another than \"next-token\", which \"draft_of\" asks for");
  if (!r.model.draft_of.empty() && (r.lora.rank > 0 || r.evaluation.problems > 0)) {
    o.bad(r.lora.rank > 0 ? "lora" : "evaluation",
          "does not go with \"draft_of\": the model has no embeddings; remove it");
  }
  if (r.evaluation.problems > 0 && guesses(r.loss.kind) != !r.evaluation.held_out.empty())
    o.bad("evaluation", guesses(r.loss.kind) ? "needs \"held_out\", lines of texts to guess in"
                                             : "has \"held_out\", which belongs to losses that "
                                               "train guesses");
  if (r.evaluation.problems > 0 && !guesses(r.loss.kind) && r.data.generator.empty()) {
    o.bad("evaluation", "needs data from a generator, which knows the right answers; remove it");
  }
  o.finish();
  return r;
}

Recipe read_recipe(const std::filesystem::path& path) {
  return parse_recipe(read_file(path, size_t(1) << 20), path.string(), path.parent_path());
}

}  // namespace tutti::train

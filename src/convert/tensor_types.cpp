#include "convert/tensor_types.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace tutti::convert {
namespace {

using tensor::Type;

bool contains(std::string_view name, std::string_view part) {
  return name.find(part) != std::string_view::npos;
}

bool is_embedding(std::string_view name) { return name == "token_embd.weight"; }
bool is_output(std::string_view name) { return name == "output.weight"; }
bool is_attn_v(std::string_view name) { return contains(name, "attn_v.weight"); }

bool fits(const TensorFacts& t, Type type) {
  return t.dims.front() % uint64_t(tensor::info(type).block) == 0;
}

// Neither a vector nor a norm nor a router.
bool is_matrix(const TensorFacts& t) {
  size_t dims = t.dims.size();
  while (dims > 1 && t.dims[dims - 1] == 1) --dims;
  return dims > 1 && t.name.ends_with("weight") && !contains(t.name, "_norm.weight") &&
         !contains(t.name, "ffn_gate_inp.weight");
}

bool gets_more_bits(int layer, int layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

class Chooser {
 public:
  Chooser(const TypeRules& rules, const ModelFacts& model, const std::vector<TensorFacts>& tensors)
      : rules_(rules), model_(model), used_(rules.overrides.size(), false) {
    tied_ = std::ranges::none_of(tensors, [](const TensorFacts& t) { return is_output(t.name); });
    value_layers_ =
        int(std::ranges::count_if(tensors, [](const TensorFacts& t) { return is_attn_v(t.name); }));
  }

  TypeChoice choose(const TensorFacts& t) {
    const bool matrix = is_matrix(t);
    if (!matrix || rules_.file_type.copy || (rules_.leave_output && is_output(t.name))) {
      const bool widen = model_.from_folder && !matrix && !tensor::info(t.stored).quantised;
      return {widen ? Type::kF32 : t.stored, {}};
    }
    const Type wanted = wanted_type(t);
    if (fits(t, wanted)) return {wanted, {}};
    const Type next = wanted == Type::kQ4_K   ? Type::kQ5_0
                      : wanted == Type::kQ5_K ? Type::kQ5_1
                      : wanted == Type::kQ6_K ? Type::kQ8_0
                                              : Type::kF16;
    return {fits(t, next) ? next : Type::kF16, wanted};
  }

  void check_overrides() const {
    for (size_t i = 0; i < used_.size(); ++i) {
      if (used_[i]) continue;
      throw Error(ErrorKind::kUsage,
                  "--tensor-type: the pattern \"" + rules_.overrides[i].pattern.pattern() +
                      "\" is found in no tensor whose type may change; 'tutti quantize "
                      "--dry-run' lists the names");
    }
  }

 private:
  Type wanted_type(const TensorFacts& t) {
    const bool embedding = is_embedding(t.name), output = is_output(t.name);
    if (embedding && rules_.token_embedding) return *rules_.token_embedding;
    if (output && rules_.output) return *rules_.output;
    std::optional<Type> found;
    for (size_t i = 0; i < used_.size(); ++i) {
      if (!text::RegexScan(rules_.overrides[i].pattern, t.name).find(0)) continue;
      used_[i] = true;
      if (!found) found = rules_.overrides[i].type;
    }
    if (found) return *found;
    const Type own = rules_.file_type.type;
    if (rules_.pure || !tensor::info(own).quantised) return own;
    if (output || (embedding && tied_)) {
      if (rules_.output) return *rules_.output;
      if (!fits(t, own)) return Type::kQ8_0;
      return own == Type::kQ8_0 ? own : Type::kQ6_K;
    }
    return mixed_type(t);
  }

  Type mixed_type(const TensorFacts& t) const {
    using Mix = FileType::Mix;
    const Type own = rules_.file_type.type;
    const Mix mix = rules_.file_type.mix;
    const int layer = layer_of(t.name), layers = model_.layers;
    const bool small_q4 = mix == Mix::kSmall && own == Type::kQ4_K;
    const bool eight = model_.experts == 8;
    if (is_attn_v(t.name)) {
      if (eight) return Type::kQ8_0;
      Type type = own;
      if (mix == Mix::kMedium && gets_more_bits(layer, value_layers_)) {
        type = Type::kQ6_K;
      } else if (small_q4 && layer < 4) {
        type = Type::kQ5_K;
      }
      const bool large =
          layers == 80 && (model_.architecture == "qwen2" ||
                           (model_.architecture == "llama" && model_.heads != model_.kv_heads));
      return large && type == Type::kQ4_K ? Type::kQ5_K : type;
    }
    if (contains(t.name, "attn_k.weight")) return eight ? Type::kQ8_0 : own;
    if (contains(t.name, "attn_output.weight"))
      return eight && own == Type::kQ4_K ? Type::kQ5_K : own;
    if (contains(t.name, "ffn_down")) {
      if (mix == Mix::kMedium && gets_more_bits(layer, layers)) return Type::kQ6_K;
      if (layer >= layers / 8) return own;
      if (small_q4) return Type::kQ5_K;
      if (rules_.importances && own == Type::kQ4_0) return Type::kQ4_1;
      if (rules_.importances && own == Type::kQ5_0) return Type::kQ5_1;
    }
    return own;
  }

  const TypeRules& rules_;
  const ModelFacts& model_;
  bool tied_ = false;
  int value_layers_ = 0;
  std::vector<bool> used_;  // by override
};

}  // namespace

int layer_of(std::string_view name) {
  int layer = -1;
  if (name.starts_with("blk.")) std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  return layer;
}

std::vector<TypeChoice> choose_types(const TypeRules& rules, const ModelFacts& model,
                                     const std::vector<TensorFacts>& tensors) {
  Chooser chooser(rules, model, tensors);
  std::vector<TypeChoice> choices;
  for (const TensorFacts& t : tensors) choices.push_back(chooser.choose(t));
  chooser.check_overrides();
  return choices;
}

}  // namespace tutti::convert

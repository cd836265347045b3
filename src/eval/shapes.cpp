#include "eval/shapes.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "eval/run_program.h"

namespace tutti::eval {
namespace {

// A question with its picture cut into patches and its prompt.
struct Asked {
  vision::ShapeProblem problem;
  std::vector<vision::Patches> images;
  std::vector<int32_t> prompt;
};

vision::Image picture_of(const ShapesOptions& o, uint64_t number) {
  if (o.picture == Picture::kShuffled)
    return vision::shape_problem(o.seed, o.split, number + 1).image;
  vision::Image image = vision::shape_problem(o.seed, o.split, number).image;
  if (o.picture == Picture::kZeroed) std::ranges::fill(image.rgb, uint8_t(0));
  return image;
}

Asked ask(const ShapesModel& model, const ShapesOptions& o, uint64_t number) {
  Asked a;
  a.problem = vision::shape_problem(o.seed, o.split, number);
  a.images.push_back(
      vision::patches_of(picture_of(o, number), model.config.preprocessing, "shapes"));
  const std::string text = "<|vision_start|><|image_pad|><|vision_end|>" + a.problem.question + "?";
  a.prompt = vision::expand_image_tokens(model.tokenizer.encode(text), model.config, a.images);
  return a;
}

bool is_asked(const ShapesOptions& o, uint64_t number) {
  if (o.kinds.empty()) return true;
  const vision::Question kind = vision::shape_problem(o.seed, o.split, number).kind;
  return std::ranges::find(o.kinds, kind) != o.kinds.end();
}

void count(const Asked& asked, const decode::Completion& c, ShapesResult& r) {
  const bool right = c.text == asked.problem.answer;
  auto& kind = r.kinds[size_t(asked.problem.kind)];
  ++kind.asked;
  kind.right += right;
  kind.tokens += tokens_of(c);
  kind.forwards += forwards_of(c);
  r.right += right;
  if (asked.problem.kind == vision::Question::kDescribe) r.parsed += nlohmann::json::accept(c.text);
  r.tokens += tokens_of(c);
  r.forwards += forwards_of(c);
}

}  // namespace

ShapesResult run_shapes(const ShapesModel& model, const decode::GenerationOptions& how,
                        const ShapesOptions& options, const std::function<void(int)>& progress) {
  ShapesResult result;
  result.problems = options.problems;
  result.answers.resize(size_t(options.problems));
  std::vector<Asked> all;
  for (uint64_t number = options.first; int(all.size()) < options.problems; ++number) {
    if (is_asked(options, number)) all.push_back(ask(model, options, number));
  }
  int done = 0;
  engine::Engine& engine = model.engine;
  result.seconds = answer_all(
      engine, options.problems, options.batch,
      [&](int question, std::shared_ptr<engine::Request> request) -> Task<void> {
        const size_t i = size_t(question);
        Asked& asked = all[i];
        decode::GenerationOptions g = how;
        if (!g.seed) g.seed = options.seed + i;
        g.prompt_rows = co_await vision::image_prompt(engine, model.network, request, asked.prompt,
                                                      std::move(asked.images), model.config);
        const std::vector<decode::Completion> answer =
            co_await decode::generate(engine, model.tokenizer, request, asked.prompt, g, {});
        count(asked, answer.front(), result);
        result.answers[i] = {asked.problem.question, asked.problem.answer, answer.front().text};
        if (progress) progress(++done);
      });
  return result;
}

}  // namespace tutti::eval

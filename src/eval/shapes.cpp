#include "eval/shapes.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

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

void count(const Asked& asked, const decode::Completion& c, ShapesResult& r) {
  const bool right = c.text == asked.problem.answer;
  auto& kind = r.kinds[size_t(asked.problem.kind)];
  ++kind.asked;
  kind.right += right;
  r.right += right;
  if (asked.problem.kind == vision::Question::kDescribe) r.parsed += nlohmann::json::accept(c.text);
  const uint64_t tokens = c.ids.size() + (c.finish == decode::Finish::kStop ? 1 : 0);
  r.tokens += tokens;
  r.forwards += c.statistics.forwards > 0 ? c.statistics.forwards : tokens;
}

}  // namespace

ShapesResult run_shapes(const ShapesModel& model, const decode::GenerationOptions& how,
                        const ShapesOptions& options, const std::function<void(int)>& progress) {
  ShapesResult result;
  result.problems = options.problems;
  result.answers.resize(size_t(options.problems));
  std::vector<Asked> all;
  for (int i = 0; i < options.problems; ++i)
    all.push_back(ask(model, options, options.first + uint64_t(i)));
  int next = 0, done = 0;
  std::exception_ptr error;
  engine::Engine& engine = model.engine;
  const auto start = std::chrono::steady_clock::now();
  for (int lane = 0; lane < std::min(options.batch, options.problems); ++lane) {
    const auto first_request = engine.new_request();
    engine.spawn(
        first_request,
        [&, first_request]() -> Task<void> {
          auto request = first_request;
          while (next < options.problems) {
            const size_t i = size_t(next++);
            Asked& asked = all[i];
            decode::GenerationOptions g = how;
            if (!g.seed) g.seed = options.seed + i;
            g.prompt_rows =
                co_await vision::image_prompt(engine, model.network, request, asked.prompt,
                                              std::move(asked.images), model.config);
            const std::vector<decode::Completion> answer =
                co_await decode::generate(engine, model.tokenizer, request, asked.prompt, g, {});
            count(asked, answer.front(), result);
            result.answers[i] = {asked.problem.question, asked.problem.answer, answer.front().text};
            if (progress) progress(++done);
            request = engine.new_request();
          }
        },
        [&](std::exception_ptr e) {
          if (e && !error) error = e;
        });
  }
  engine.run();
  if (error) std::rethrow_exception(error);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace tutti::eval

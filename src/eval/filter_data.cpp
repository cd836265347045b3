#include "eval/filter_data.h"

#include <memory>

#include "decode/diffusion/diffusion.h"
#include "eval/run_program.h"

namespace tutti::eval {

FilterData collect_filter_data(engine::Engine& engine, const text::Tokenizer& tokenizer,
                               const std::vector<std::vector<int32_t>>& prompts,
                               const decode::GenerationOptions& how,
                               const std::function<void(int)>& progress) {
  FilterData data;
  for (const auto& prompt : prompts) {
    const auto request = engine.new_request();
    run_to_end(engine, request, [&]() -> Task<void> {
      decode::GenerationOptions options = how;
      options.method = "diffusion";
      options.method_options["policy"] = "static";
      options.method_options["early_stop"] = "0";
      std::vector<int32_t> reference, oracle;
      const auto keep = [](std::vector<int32_t>& tokens) {
        return [&tokens](const decode::CanvasStep& step) {
          tokens.assign(step.tokens.begin(), step.tokens.end());
        };
      };
      options.on_canvas = keep(reference);
      decode::Generation slow(engine, tokenizer, request, prompt, options, 0, 0, 0, {});
      co_await decode::diffusion_method(slow);
      options.on_canvas = keep(oracle);
      decode::Generation fast(engine, tokenizer, request, prompt, options, 0, 0, 0, {});
      co_await decode::diffusion::denoise(
          fast, std::make_unique<decode::diffusion::Oracle>(reference, &data.records, &data.stuck));
      data.differ += oracle != reference;
      data.static_forwards += slow.statistics().forwards;
      data.oracle_forwards += fast.statistics().forwards;
      ++data.answers;
      if (progress) progress(data.answers);
    });
  }
  return data;
}

}  // namespace tutti::eval

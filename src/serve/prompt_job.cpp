#include "serve/prompt_job.h"

#include <span>
#include <stop_token>
#include <string>
#include <utility>

#include "decode/prompt_score.h"
#include "engine/crossing.h"
#include "serve/api_error.h"
#include "serve/whole_answer.h"
#include "vision/image.h"

namespace tutti::serve {
namespace {

// No more images are unpacked than fit the context: a small file may hold a large picture.
std::vector<vision::Patches> patches_of(const std::vector<std::vector<std::byte>>& files,
                                        const vision::VisionConfig& vision_config,
                                        const models::Config& config, const std::stop_token& stop) {
  std::vector<vision::Patches> images;
  size_t places = 0;
  for (const auto& file : files) {
    if (stop.stop_requested()) break;
    const std::string place = "image " + std::to_string(images.size() + 1);
    try {
      images.push_back(vision::patches_of(vision::decode_image(file, place),
                                          vision_config.preprocessing, place));
    } catch (const Error& e) {
      throw invalid(e.what(), "messages");
    }
    places += size_t(images.back().grid.cells(vision_config.preprocessing.merge));
    check_fits(config, places, "messages");
  }
  return images;
}

Task<void> read_images(PromptJob& job, std::shared_ptr<engine::Request> request) {
  // Unpacked and resized beside the engine: that takes longer than a tick.
  auto cut = [files = std::move(job.images), reading = job.reading,
              &config = job.engine->model().config()](const std::stop_token& stop) {
    return patches_of(files, reading->config, config, stop);
  };
  std::vector<vision::Patches> images = co_await engine::offload(*job.engine, std::move(cut));
  try {
    job.prompt = vision::expand_image_tokens(job.prompt, job.reading->config, images);
  } catch (const Error& e) {
    throw invalid(e.what(), "messages");
  }
  check_fits(job.engine->model().config(), job.prompt.size(), "messages");
  job.options.prompt_rows =
      co_await vision::image_prompt(*job.engine, job.reading->network, std::move(request),
                                    job.prompt, std::move(images), job.reading->config);
}

}  // namespace

Task<std::vector<decode::Completion>> run_prompt(std::shared_ptr<PromptJob> job,
                                                 std::shared_ptr<engine::Request> request,
                                                 decode::PieceSink sink) {
  if (job->read) {
    std::function<ReadPrompt()> read = std::exchange(job->read, {});
    job->take(co_await engine::offload(*job->engine, std::move(read)));
  }
  if (!job->images.empty()) co_await read_images(*job, request);
  if (job->scores_prompt) {
    job->scores = co_await decode::score_prompt(*job->engine, request, job->prompt,
                                                job->options.sampling.logprobs);
    if (job->options.max_tokens == 0) {
      request->statistics.prompt_tokens = job->prompt.size();
      decode::Completion nothing;
      nothing.finish = decode::Finish::kLength;
      co_return std::vector<decode::Completion>(size_t(job->options.n), nothing);
    }
  }
  job->options.on_canvas = [score = job->score, id = request->id](const decode::CanvasStep& step) {
    score->wrote(id, step);
  };
  co_return co_await decode::generate(*job->engine, *job->tokenizer, request, job->prompt,
                                      job->options, sink);
}

}  // namespace tutti::serve

// tutti image: what a model sees of a picture.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/images.h"
#include "cli/json_text.h"
#include "models/find_model.h"
#include "vision/overlay.h"
#include "vision/resize.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ImageOptions {
  std::vector<std::string> files;
  ModelOptions model;
  std::string out, grid, patches, features;
  std::vector<int> size;
  int64_t min_pixels = 0, max_pixels = 0;
};

void write_floats(const std::string& file, std::span<const float> values) {
  write_file_atomically(file, [&](const Sink& sink) { sink(std::as_bytes(values)); });
}

// Every picture through the tower in one engine, so that they share its batches.
std::vector<vision::ImageFeatures> features_of(const ModelOptions& model,
                                               const std::vector<vision::Patches>& images) {
  Session session(model, {}, Session::Input::kIds);
  const ImageReader reader(session.model().checkpoint());
  engine::Engine& engine = session.engine();
  std::vector<vision::ImageFeatures> out(images.size());
  std::exception_ptr failed;
  for (size_t i = 0; i < images.size(); ++i) {
    const auto request = engine.new_request();
    engine.spawn(
        request,
        [&, i, request]() -> Task<void> {
          out[i] = co_await engine.run(reader.network(), request, images[i]);
        },
        [&](std::exception_ptr error) {
          if (error) failed = error;
        });
  }
  engine.run();
  if (failed) std::rethrow_exception(failed);
  return out;
}

void image(const ImageOptions& o) {
  vision::VisionConfig config;
  if (!o.model.model.empty()) {
    const models::Checkpoint checkpoint =
        models::Checkpoint::open(models::find_model(o.model.model));
    config = vision::vision_config(checkpoint);
    vision::vision_weights(checkpoint, config);  // says what is wrong with the folder
  } else if (!o.features.empty()) {
    throw Error(ErrorKind::kUsage, "image: --features asks for a model; name it with -m");
  }
  vision::Preprocessing& p = config.preprocessing;
  if (o.min_pixels > 0) p.min_pixels = o.min_pixels;
  if (o.max_pixels > 0) p.max_pixels = o.max_pixels;
  if (p.min_pixels > p.max_pixels)
    throw Error(ErrorKind::kUsage, "image: --min-pixels is above --max-pixels");
  const bool one_file = !o.out.empty() || !o.grid.empty();
  if (one_file && o.files.size() != 1)
    throw Error(ErrorKind::kUsage, "image: --out and --grid take one image");
  std::vector<vision::Patches> all;
  std::vector<float> values;
  for (const std::string& file : o.files) {
    const vision::Image picture = vision::read_image(file);
    vision::Size size;
    if (o.size.empty()) {
      size = vision::smart_size({picture.width, picture.height}, p, file);
    } else {
      size = {o.size[0], o.size[1]};
      vision::check_image_size(size.width, size.height, "image: --size");
    }
    const vision::Image resized = vision::resize_bicubic(picture, size.width, size.height);
    if (!o.out.empty()) vision::write_png(o.out, resized);
    Json j{{"file", file},
           {"width", picture.width},
           {"height", picture.height},
           {"resized", {size.width, size.height}}};
    if (size.width % p.cell() == 0 && size.height % p.cell() == 0) {
      all.push_back(vision::cut_patches(resized, p));
      const vision::Grid& grid = all.back().grid;
      const vision::Windows windows = vision::windows_of(grid, p.merge, config.window);
      j["grid"] = {grid.t, grid.h, grid.w};
      j["tokens"] = grid.cells(p.merge);
      j["windows"] = windows.sizes;
      values.insert(values.end(), all.back().values.begin(), all.back().values.end());
      if (!o.grid.empty()) vision::write_png(o.grid, vision::with_grid(resized, p, config.window));
    }
    std::cout << print_json(j) << '\n';
  }
  if (!o.patches.empty()) write_floats(o.patches, values);
  if (o.features.empty()) return;
  values.clear();
  for (const auto& features : features_of(o.model, all)) {
    values.insert(values.end(), features.values.begin(), features.values.end());
  }
  write_floats(o.features, values);
}

}  // namespace

void add_image(CLI::App& app) {
  auto o = std::make_shared<ImageOptions>();
  CLI::App* command =
      app.add_subcommand("image", "what a model sees of a picture: size, patches, windows, tokens");
  command->add_option("files", o->files, "PNG or JPEG files")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  o->model.add_to(*command);
  command->get_option("--model")->required(false);
  command->add_option("--size", o->size, "WIDTH HEIGHT to resize to, instead of the model's rule")
      ->expected(2)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--min-pixels", o->min_pixels, "instead of the model's")
      ->check(CLI::Range(1, 1 << 26));
  command->add_option("--max-pixels", o->max_pixels, "instead of the model's")
      ->check(CLI::Range(1, 1 << 26));
  command->add_option("--out", o->out, "the resized picture, a PNG file");
  command->add_option("--grid", o->grid,
                      "the resized picture with its patches, cells and windows drawn, a PNG file");
  command->add_option("--patches", o->patches,
                      "what the tower reads: float32 [patches, values], picture after picture");
  command->add_option("--features", o->features,
                      "what the tower writes: float32 [tokens, hidden], picture after picture");
  command->callback([o] { image(*o); });
}

}  // namespace tutti::cli

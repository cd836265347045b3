#include "cli/session.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <future>
#include <iostream>

#include "base/error.h"
#include "base/files.h"
#include "cli/progress_line.h"
#include "formats/gguf.h"
#include "formats/model_folder.h"
#include "models/find_model.h"

namespace tutti::cli {

std::vector<std::string> arithmetic_names() {
  std::vector<std::string> names;
  for (const tensor::Arithmetic a : tensor::kArithmetics) names.emplace_back(tensor::name(a));
  return names;
}

void ModelOptions::add_to(CLI::App& app) {
  app.add_option("-m,--model", model, kModelHelp)->required()->envname("TUTTI_MODEL");
  add_ways_to(app);
}

void ModelOptions::add_ways_to(CLI::App& app) {
  app.add_option("-t,--threads", threads, "compute threads; 0: all cores")
      ->check(CLI::Range(0, 1024))
      ->envname("TUTTI_THREADS")
      ->capture_default_str();
  app.add_option("--kv,--kv-cache-dtype", kv, "type of cached keys and values")
      ->check(CLI::IsMember({"f16", "f32", "i8"}))
      ->capture_default_str();
  app.add_option("--arithmetic", arithmetic,
                 "exact-q8: int8 activations for quantised weights; exact-f32: weights widened to "
                 "fp32; approximate "
                 "(docs/arithmetic.md has their errors): bf16-dot: weights and activations rounded "
                 "to bf16; w8a8-row: "
                 "int8 with one scale per output and per row, for prompts")
      ->check(CLI::IsMember(arithmetic_names()))
      ->capture_default_str();
  app.add_option("--kv-pages", kv_pages,
                 "KV pool in pages of 32 slots; 0: as many as a quarter of the memory holds")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  app.add_option("--pack-cache", pack_cache,
                 "folder that keeps packed weights, for any later run to map; off: pack at each "
                 "start (default: "
                 "~/.cache/tutti/packed)")
      ->envname("TUTTI_PACK_CACHE");
  app.add_flag("-q,--quiet", quiet, "no progress or notes on stderr");
}

std::optional<text::ChatTemplate> chat_template_of(const text::Tokenizer& tokenizer) {
  if (tokenizer.chat_template().empty()) return std::nullopt;
  std::map<std::string, std::string> special;
  if (tokenizer.bos() >= 0) special["bos_token"] = tokenizer.vocabulary()[tokenizer.bos()].text;
  if (tokenizer.eos() >= 0) special["eos_token"] = tokenizer.vocabulary()[tokenizer.eos()].text;
  return text::ChatTemplate::parse(tokenizer.chat_template(), special);
}

namespace {

text::Tokenizer tokenizer_of(const formats::ModelFolder& folder) {
  const auto json = folder.text("tokenizer.json");
  if (const auto spiece = json ? std::nullopt : folder.text("spiece.model")) {
    return text::Tokenizer::from_spiece(*spiece, folder.tokenizer_config().dump(),
                                        (folder.path() / "spiece.model").string());
  }
  if (!json) {
    throw Error(
        ErrorKind::kNotFound,
        folder.path().string() + ": has no tokenizer.json; save the tokenizer beside the weights");
  }
  text::Tokenizer tokenizer =
      text::Tokenizer::from_hf(*json, folder.tokenizer_config().dump(), folder.path().string());
  if (const auto chat = folder.chat_template()) tokenizer.set_chat_template(*chat);
  // generation_config.json may list more end tokens than the tokenizer knows of.
  const auto& generation = folder.generation_config();
  if (const auto eos = generation.find("eos_token_id"); eos != generation.end()) {
    if (eos->is_number_integer()) tokenizer.add_end_id(eos->get<int32_t>());
    if (eos->is_array()) {
      for (const auto& id : *eos) {
        if (id.is_number_integer()) tokenizer.add_end_id(id.get<int32_t>());
      }
    }
  }
  return tokenizer;
}

models::LoadProgress loading_line(bool quiet) {
  auto line = std::make_shared<ProgressLine>(quiet);
  if (!line->on()) return {};
  return [line](double fraction) {
    if (line->due()) line->show("loading " + std::to_string(int(fraction * 100)) + " %");
    if (fraction >= 1) line->clear();
  };
}

std::optional<models::PackCache> pack_cache(const ModelOptions& options) {
  if (options.pack_cache == "off") return std::nullopt;
  models::PackCache::Options cache;
  cache.folder = options.pack_cache.empty() ? cache_folder() / "packed"
                                            : std::filesystem::path(options.pack_cache);
  cache.say_unwritable = !options.pack_cache.empty();
  if (!options.quiet)
    cache.note = [](const std::string& text) { std::cerr << "note: " << text << '\n'; };
  return models::PackCache(std::move(cache));
}

}  // namespace

text::Tokenizer load_tokenizer(const std::string& model) {
  const auto path = models::find_model(model);
  if (std::filesystem::is_directory(path)) {
    if (std::filesystem::exists(path / "config.json"))
      return tokenizer_of(formats::ModelFolder::open(path));
    // A tokenizer saved on its own.
    const auto config = path / "tokenizer_config.json";
    if (!std::filesystem::exists(path / "tokenizer.json") &&
        std::filesystem::exists(path / "spiece.model")) {
      return text::Tokenizer::from_spiece(read_file(path / "spiece.model"),
                                          std::filesystem::exists(config) ? read_file(config) : "",
                                          (path / "spiece.model").string());
    }
    return text::Tokenizer::from_hf(read_file(path / "tokenizer.json"),
                                    std::filesystem::exists(config) ? read_file(config) : "",
                                    path.string());
  }
  return text::Tokenizer::from_gguf(formats::Gguf::open(path));
}

Session::Session(const ModelOptions& options, engine::EngineOptions engine_options, Input input,
                 std::shared_ptr<ComputePool> pool, const models::Checkpoint* target,
                 std::shared_ptr<engine::CoreLease> lease)
    : options_(options), pool_(std::move(pool)) {
  const auto start = std::chrono::steady_clock::now();
  if (!pool_)
    pool_ =
        std::make_shared<ComputePool>(options.threads > 0 ? options.threads : available_cores());
  auto checkpoint = std::make_shared<models::Checkpoint>(
      models::Checkpoint::open(models::find_model(options.model)));
  if (target && checkpoint->config().embedding_width > 0) {
    checkpoint->take_embeddings(target->weights().embedding);
    input = Input::kIds;
  }
  // The tokenizer is made beside the weights, which need memory more than cores.
  std::future<text::Tokenizer> tokenizer;
  if (input == Input::kText) {
    tokenizer =
        std::async(pool_->threads() > 1 ? std::launch::async : std::launch::deferred, [checkpoint] {
          return checkpoint->gguf() ? text::Tokenizer::from_gguf(*checkpoint->gguf())
                                    : tokenizer_of(*checkpoint->folder());
        });
  }
  const auto arithmetic = tensor::find_arithmetic(options.arithmetic).value();
  const auto cache = pack_cache(options);
  model_ = std::make_shared<models::Model>(checkpoint, arithmetic, *pool_,
                                           loading_line(options.quiet), cache ? &*cache : nullptr);
  if (input == Input::kText) {
    tokenizer_ = std::make_unique<text::Tokenizer>(tokenizer.get());
    chat_ = chat_template_of(*tokenizer_);
  }
  engine_options.kv = options.kv == "f32"  ? tensor::KvType::kF32
                      : options.kv == "i8" ? tensor::KvType::kI8
                                           : tensor::KvType::kF16;
  // An encoder keeps no keys and values: rounding them would cost exactness and save nothing.
  if (model_->config().is_encoder()) engine_options.kv = tensor::KvType::kF32;
  if (options.kv_pages > 0) engine_options.pages = options.kv_pages;
  engine_ = std::make_shared<engine::Engine>(model_, pool_, engine_options, std::move(lease));
  load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string Session::render_chat(const nlohmann::ordered_json& messages) const {
  if (!chat_) {
    throw Error(
        ErrorKind::kUnsupported,
        "model " + options_.model + ": has no chat template (a base model); use 'tutti run --raw'");
  }
  text::ChatOptions chat;
  chat.add_generation_prompt = true;
  return chat_->render(messages, chat);
}

std::vector<int32_t> Session::encode_chat(const nlohmann::ordered_json& messages) const {
  return tokenizer_->encode(render_chat(messages));
}

std::vector<int32_t> Session::encode_raw(const std::string& text) const {
  text::EncodeOptions encode;
  encode.add_bos = tokenizer_->add_bos_default();
  return tokenizer_->encode(text, encode);
}

}  // namespace tutti::cli

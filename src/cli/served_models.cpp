#include "cli/served_models.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <exception>
#include <filesystem>
#include <functional>
#include <numeric>
#include <thread>

#include "base/error.h"
#include "cli/images.h"
#include "serve/chat_format.h"

namespace tutti::cli {
namespace {

std::vector<std::string> split_names(const std::string& given) {
  std::vector<std::string> names;
  for (size_t at = 0; at <= given.size();) {
    const size_t comma = std::min(given.find(',', at), given.size());
    if (comma == at)
      throw Error(ErrorKind::kUsage, "--served-model-name: has an empty name; leave it out");
    names.push_back(given.substr(at, comma - at));
    at = comma + 1;
  }
  return names;
}

std::string file_name(const std::string& model) {
  const std::string name = std::filesystem::path(model).filename().string();
  return name.empty() ? model : name;
}

void check_distinct(const std::vector<std::vector<std::string>>& names) {
  std::vector<std::string> seen;
  for (const auto& of_one : names) {
    for (const std::string& name : of_one) {
      if (std::ranges::find(seen, name) != seen.end()) {
        throw Error(ErrorKind::kUsage, "model name " + name +
                                           ": is given to two models; tell them apart with "
                                           "--served-model-name, one for each, in their order");
      }
    }
    seen.insert(seen.end(), of_one.begin(), of_one.end());
  }
}

// Of a model with a tower for images. A program that was built without libtorch serves its text.
std::shared_ptr<const serve::ImageReading> image_reading_of(const Session& session) {
  if (!vision::has_vision(session.model().checkpoint())) return nullptr;
  try {
    const ImageReader reader(session.model().checkpoint());
    return std::make_shared<const serve::ImageReading>(
        serve::ImageReading{reader.config(), reader.network()});
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kNotFound) throw;
    std::fprintf(stderr, "note: images are not read: %s\n", e.what());
    return nullptr;
  }
}

std::string kv_name(tensor::KvType type) {
  return type == tensor::KvType::kF32 ? "f32" : type == tensor::KvType::kI8 ? "i8" : "f16";
}

std::string fixed(double number, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, number);
  return text;
}

std::string calls_of(const serve::ChatFormat& format) {
  if (!format.tools) return "in a format that is not known (--tool-parser)";
  if (*format.tools == text::ToolFormat::kNone) return "hermes, told in a system message";
  return std::string(text::name(*format.tools));
}

}  // namespace

std::vector<std::vector<std::string>> model_names(const std::vector<std::string>& models,
                                                  const std::vector<std::string>& given) {
  std::vector<std::vector<std::string>> names(models.size());
  if (models.size() == 1) {
    for (const std::string& one : given) {
      for (std::string& name : split_names(one)) names.front().push_back(std::move(name));
    }
  } else if (!given.empty()) {
    if (given.size() != models.size()) {
      throw Error(ErrorKind::kUsage,
                  "--served-model-name: is given " + std::to_string(given.size()) + " times for " +
                      std::to_string(models.size()) +
                      " models; give one for each, in their order (further names of one behind "
                      "commas)");
    }
    for (size_t i = 0; i < models.size(); ++i) names[i] = split_names(given[i]);
  }
  for (size_t i = 0; i < models.size(); ++i) {
    if (names[i].empty()) names[i].push_back(file_name(models[i]));
  }
  check_distinct(names);
  return names;
}

std::vector<std::string> draft_models(size_t models, const std::vector<std::string>& given) {
  std::vector<std::string> drafts(models);
  if (given.empty()) return drafts;
  if (given.size() != models) {
    throw Error(ErrorKind::kUsage,
                "--draft-model: is given " + std::to_string(given.size()) + " times for " +
                    std::to_string(models) +
                    (models == 1 ? " model; give one"
                                 : " models; give one for each, in their order, and \"none\" for "
                                   "those that have none"));
  }
  for (size_t i = 0; i < models; ++i) {
    if (given[i] != "none") drafts[i] = given[i];
  }
  return drafts;
}

ServedModels::ServedModels(boost::asio::io_context& net, const ServedModelsOptions& o) {
  const auto names = model_names(o.models, o.names);
  const auto drafts = draft_models(o.models.size(), o.drafts);
  const auto drafting = size_t(std::ranges::count_if(drafts, std::not_fn(&std::string::empty)));
  if (o.draft.cores > 0 && (o.models.size() > 1 || drafting == 0)) {
    throw Error(ErrorKind::kUsage,
                "--draft-cores: cores are divided between one model and its "
                "--draft-model; give both, and no second model");
  }
  const auto lease = o.models.size() > 1 ? std::make_shared<engine::CoreLease>() : nullptr;
  bool files_read = false;
  for (size_t i = 0; i < o.models.size(); ++i) {
    One& one = models_.emplace_back();
    ModelOptions model = o.model;
    model.model = one.source = o.models[i];
    engine::EngineOptions engine;
    engine.sharers = int(o.models.size() + drafting);
    one.session =
        std::make_unique<Session>(model, engine, Session::Input::kText, nullptr, nullptr, lease);
    one.worker = std::make_unique<serve::Worker>(net, one.session->engine(), o.worker);
    one.run_at_a_time = o.worker.running;
    one.may_wait = o.worker.queued;
    serve::ServedModel& m = one.model;
    m.name = names[i].front();
    m.aliases.assign(names[i].begin() + 1, names[i].end());
    m.created = int64_t(std::time(nullptr));
    m.tokenizer = &one.session->tokenizer();
    m.chat = chat_template_of(one.session->tokenizer());
    m.format = serve::chat_format_of(one.session->tokenizer().chat_template(), o.tool_parser,
                                     o.reasoning_parser);
    m.worker = one.worker.get();
    m.images = image_reading_of(*one.session);
    one.draft_source = drafts[i];
    if (!drafts[i].empty()) add_draft(one, o, engine);
    const bool last = i + 1 == o.models.size();
    if (!files_read && (!m.config().is_encoder() || last)) {
      m.method_files =
          decode::read_method_files(o.method_options, one.session->model().checkpoint());
      files_read = true;
    }
  }
}

std::vector<serve::ServedModel*> ServedModels::all() {
  std::vector<serve::ServedModel*> list;
  for (One& one : models_) list.push_back(&one.model);
  return list;
}

void ServedModels::add_draft(One& one, const ServedModelsOptions& o,
                             const engine::EngineOptions& engine) {
  const models::Config& config = one.model.config();
  if (config.is_encoder() || config.attention != models::AttentionKind::kCausal) {
    throw Error(ErrorKind::kUnsupported, "model " + one.source + " (" + config.architecture +
                                             "): a draft model drafts for causal models; leave "
                                             "--draft-model out, or give \"none\" for this one");
  }
  DraftModelOptions draft = o.draft;
  draft.model = one.draft_source;
  one.draft = std::make_unique<DraftSession>(draft, *one.session, engine);
  one.model.draft_model = one.draft->model();
}

std::string ServedModels::description_of(const One& one) {
  const engine::Engine& engine = one.session->engine();
  const models::Model& model = one.session->model();
  const models::Config& config = model.config();
  std::string out = "model " + one.model.name + " (" + one.source + "), context " +
                    std::to_string(config.context_length) + ", " + kv_name(engine.options().kv) +
                    " keys and values, " + one.session->options().arithmetic +
                    " arithmetic, loaded in " + fixed(one.session->load_seconds(), 2) + " s\n";
  if (config.is_encoder()) {
    const bool scores = model.checkpoint().score_head().has_value();
    out += std::string("an encoder") + (scores ? " with a head that scores pairs" : "") +
           ": embeddings, rerank\n";
  } else {
    out += "calls of tools: " + calls_of(one.model.format) +
           "; thoughts: " + (one.model.format.thinks ? "in <think> tags" : "none") + "\n";
  }
  if (one.model.images) out += "images: read from data: URLs\n";
  if (one.draft) {
    out += "drafts: by " + one.draft_source +
           (one.model.draft_model->cores() ? ", on cores of its own" : "") +
           "; method auto is draft\n";
  }
  const int pages = engine.pages().total();
  const double bytes = double(pages) * double(model.kv_layout(engine.options().kv).page_bytes());
  const long slots = long(pages) * tensor::kPageSlots;
  return out + std::to_string(pages) + " pages (" + fixed(bytes / (1 << 20), 0) + " MiB) hold " +
         std::to_string(slots) + " tokens, " + fixed(double(slots) / config.context_length, 1) +
         " requests of full length; " + std::to_string(one.run_at_a_time) + " run at a time, " +
         std::to_string(one.may_wait) + " more may wait\n";
}

std::string ServedModels::description() const {
  std::string out;
  for (const One& one : models_) out += description_of(one);
  return out;
}

void ServedModels::run(const std::function<void()>& on_failure) {
  std::vector<std::exception_ptr> errors(models_.size());
  const auto serve = [&](size_t i) {
    try {
      models_[i].session->engine().serve();
    } catch (...) {
      errors[i] = std::current_exception();
      on_failure();
      stop();
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < models_.size(); ++i) threads.emplace_back(serve, i);
  serve(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

void ServedModels::stop() {
  for (One& one : models_) one.session->engine().stop();
}

void ServedModels::drain(std::function<void()> idle) {
  const auto left = std::make_shared<size_t>(models_.size());
  for (One& one : models_) {
    one.worker->drain([left, idle] {
      if (--*left == 0) idle();
    });
  }
}

void ServedModels::cancel_all() {
  for (One& one : models_) one.worker->cancel_all();
}

int ServedModels::running() const {
  return std::accumulate(models_.begin(), models_.end(), 0,
                         [](int sum, const One& one) { return sum + one.worker->running(); });
}

int ServedModels::queued() const {
  return std::accumulate(models_.begin(), models_.end(), 0,
                         [](int sum, const One& one) { return sum + one.worker->queued(); });
}

}  // namespace tutti::cli

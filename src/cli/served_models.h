// The models of a server: each with its engine and thread, on shared cores.
#pragma once

#include <boost/asio/io_context.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/draft_session.h"
#include "cli/session.h"
#include "decode/method_files.h"
#include "serve/served_model.h"
#include "serve/worker.h"

namespace tutti::cli {

struct ServedModelsOptions {
  ModelOptions model;               // of all; its `model` is not read
  std::vector<std::string> models;  // at least one
  std::vector<std::string> names;   // see model_names
  std::vector<std::string> drafts;  // see draft_models
  DraftModelOptions draft;          // of each of them; its `model` is not read
  serve::WorkerLimits worker;       // of each
  std::string tool_parser, reasoning_parser;
  // Of methods; files that they name are read for the first model that writes text.
  std::map<std::string, std::string> method_options;
};

// The names of each model, the first being its own. One model has all of `given`; of several, each
// has one of them, in their order. Within one, commas separate names. Without any a model is called
// by its file. Throws Error(kUsage): too few, too many, an empty one, one of two models.
std::vector<std::vector<std::string>> model_names(const std::vector<std::string>& models,
                                                  const std::vector<std::string>& given);

// The draft model of each model, empty where it has none: one for each in their order, "none"
// where there is none to be. Throws Error(kUsage) when `given` are others than `models`.
std::vector<std::string> draft_models(size_t models, const std::vector<std::string>& given);

class ServedModels {
 public:
  // Loads them one after the other. `net` must outlive this. Throws Error.
  ServedModels(boost::asio::io_context& net, const ServedModelsOptions& options);

  std::vector<serve::ServedModel*> all();
  // One line or two about each, for people: where it is from, its keys and values, its limits.
  std::string description() const;

  // Runs the engines, the first on this thread, until stop(); `on_failure` is called, on any
  // thread, when one of them fails, which ends run() with its exception.
  void run(const std::function<void()>& on_failure);
  void stop();  // any thread

  // For the net thread, over all models.
  void drain(std::function<void()> idle);
  void cancel_all();
  int running() const;
  int queued() const;

 private:
  struct One {
    std::string source;
    std::unique_ptr<Session> session;
    std::unique_ptr<DraftSession> draft;
    std::string draft_source;
    std::unique_ptr<serve::Worker> worker;
    serve::ServedModel model;
    int run_at_a_time = 0, may_wait = 0;
  };
  static void add_draft(One& one, const ServedModelsOptions& options,
                        const engine::EngineOptions& engine);
  static std::string description_of(const One& one);

  std::deque<One> models_;
};

}  // namespace tutti::cli

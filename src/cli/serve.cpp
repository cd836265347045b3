// tutti serve: OpenAI's API over one model or several.
#include <CLI/CLI.hpp>
#include <boost/asio/signal_set.hpp>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/descriptor_limit.h"
#include "cli/option_table.h"
#include "cli/sampling_options.h"
#include "cli/served_models.h"
#include "serve/api.h"
#include "serve/score_feed.h"

namespace tutti::cli {
namespace {

struct ServeOptions {
  ServedModelsOptions models;
  std::string host = "127.0.0.1";
  uint16_t port = 8080;
  std::vector<std::string> keys;
  std::string key_file;
  serve::TlsFiles tls;
  std::string config;  // read before the others (option_table.h)
  serve::HttpLimits http;
  serve::ApiOptions api;
  std::vector<std::string> method_settings;  // key=value
  double grace_seconds = 30;
  bool no_page = false;
  std::string log_format = "text";
};

// One key a line; "#" begins a comment.
std::vector<std::string> keys_of_file(const std::string& path) {
  std::vector<std::string> keys;
  std::istringstream lines(read_file(path, 1 << 20));
  for (std::string line; std::getline(lines, line);) {
    if (const size_t comment = line.find('#'); comment != std::string::npos) line.resize(comment);
    const size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos) continue;
    keys.push_back(line.substr(first, line.find_last_not_of(" \t\r") - first + 1));
  }
  if (keys.empty()) throw Error(ErrorKind::kUsage, path + ": holds no key; write one a line");
  return keys;
}

// In ASCII, so that nothing in a path can begin a line of its own, or speak to a terminal.
std::string print_for_log(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

void log_line(const std::string& format, const serve::HttpRequest& request, const std::string& id,
              int status, double seconds) {
  if (format == "json") {
    const std::string line = print_for_log({{"time", int64_t(std::time(nullptr))},
                                            {"id", id},
                                            {"method", request.method},
                                            {"path", request.path},
                                            {"status", status},
                                            {"seconds", seconds}});
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  std::fprintf(stderr, "%s %s %d %.3f s, %s\n", print_for_log(request.method).c_str(),
               print_for_log(request.path).c_str(), status, seconds, id.c_str());
}

// The options for /openapi.json: what they are, not what this server was given.
nlohmann::ordered_json options_document(const CLI::App& command) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const OptionRow& row : option_table(command)) {
    nlohmann::ordered_json one{{"name", row.key()}, {"flags", row.flags}, {"help", row.help}};
    if (!row.environment.empty()) one["environment"] = row.environment;
    if (!row.default_value.empty()) one["default"] = row.default_value;
    if (!row.choices.empty()) one["choices"] = row.choices;
    list.push_back(std::move(one));
  }
  return list;
}

void check_options(ServeOptions& o) {
  for (const std::string& key : o.keys) {
    if (key.empty())
      throw Error(ErrorKind::kUsage, "--api-key: is empty; give a key, or leave it out for none");
  }
  if (o.tls.certificate.empty() != o.tls.key.empty())
    throw Error(ErrorKind::kUsage, "--tls-cert and --tls-key: go together; give both or none");
  o.api.keys = o.keys;
  if (!o.key_file.empty()) {
    for (std::string& key : keys_of_file(o.key_file)) o.api.keys.push_back(std::move(key));
  }
  o.api.version = TUTTI_VERSION;
  o.api.method_options = o.models.method_options = method_options_of(o.method_settings);
  for (const auto& [name, value] : o.models.draft.settings) o.api.method_options[name] = value;
  check_draft_settings(o.api.method_options);
}

// What is said of drafts and the models' own choice of a method has no use for.
std::string notes(ServedModels& models, const serve::ApiOptions& api) {
  std::string all;
  for (const serve::ServedModel* model : models.all()) {
    if (model->config().is_encoder()) continue;
    all += draft_settings_without_use(api.method_options, model->name, model->auto_method());
  }
  return all;
}

// The first signal lets what was accepted end, within the time of grace; the second does not.
class Shutdown {
 public:
  Shutdown(boost::asio::io_context& net, serve::HttpServer& http, serve::Api& api,
           ServedModels& models, double grace_seconds)
      : net_(net),
        http_(http),
        api_(api),
        models_(models),
        grace_seconds_(grace_seconds),
        signals_(net, SIGINT, SIGTERM),
        timer_(net) {
    wait_for_signal();
  }

 private:
  void wait_for_signal() {
    signals_.async_wait([this](const boost::system::error_code& error, int) {
      if (error) return;
      if (std::exchange(stopping_, true)) {
        models_.cancel_all();
      } else {
        begin();
      }
      wait_for_signal();
    });
  }

  void begin() {
    std::fprintf(stderr, "stopping: %d requests run, %d wait\n", models_.running(),
                 models_.queued());
    api_.begin_drain();
    timer_.expires_after(std::chrono::milliseconds(int64_t(grace_seconds_ * 1000)));
    timer_.async_wait([this](const boost::system::error_code& e) {
      if (!e) models_.cancel_all();
    });
    grace_ends_ = std::chrono::steady_clock::now() +
                  std::chrono::milliseconds(int64_t(grace_seconds_ * 1000));
    models_.drain([this] { finish_when_read(); });
  }

  // Bodies that were being read when the signal came are answered, too.
  void finish_when_read() {
    timer_.cancel();
    if (api_.reading() == 0 || std::chrono::steady_clock::now() >= grace_ends_) return finish();
    timer_.expires_after(std::chrono::milliseconds(20));
    timer_.async_wait([this](const boost::system::error_code& e) {
      if (!e) finish_when_read();
    });
  }

  void finish() {
    http_.stop_accepting();
    // Answers on their way out get a moment.
    timer_.expires_after(std::chrono::milliseconds(200));
    timer_.async_wait([this](const boost::system::error_code&) {
      http_.close();
      models_.stop();
      net_.stop();
    });
  }

  boost::asio::io_context& net_;
  serve::HttpServer& http_;
  serve::Api& api_;
  ServedModels& models_;
  double grace_seconds_;
  std::chrono::steady_clock::time_point grace_ends_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer timer_;
  bool stopping_ = false;
};

void run_server(ServeOptions o) {
  check_options(o);
  raise_descriptor_limit();
  // Before the models: requests that still stand in their engines at the end have timers here.
  boost::asio::io_context net;
  ServedModels models(net, o.models);
  serve::ScoreFeed feed(net, models.all());
  serve::Api api(o.api, models.all());
  if (!o.no_page) api.show_page(&feed);
  if (!o.models.model.quiet) {
    api.on_log([format = o.log_format](const serve::HttpRequest& request, const std::string& id,
                                       int status, double seconds) {
      log_line(format, request, id, status, seconds);
    });
  }
  serve::HttpServer http(
      net, o.host, o.port, o.http,
      [&](std::shared_ptr<serve::HttpExchange> exchange) { api.handle(std::move(exchange)); },
      [&](const serve::HttpRequest& request) { return api.refuse_early(request); }, o.tls);
  Shutdown shutdown(net, http, api, models, o.grace_seconds);
  // Signals are heard from here on: whoever reads this line may send one.
  std::fprintf(stderr, "%s%slistening at %s://%s:%u/v1%s\n", models.description().c_str(),
               notes(models, o.api).c_str(), o.tls.certificate.empty() ? "http" : "https",
               o.host.c_str(), unsigned(http.port()), o.api.keys.empty() ? "" : ", with a key");
  std::exception_ptr failure, network_failure;
  std::thread network([&] {
    try {
      net.run();
    } catch (...) {
      network_failure = std::current_exception();
      models.stop();
    }
  });
  try {
    models.run([&] { net.stop(); });
  } catch (...) {
    failure = std::current_exception();
  }
  net.stop();
  network.join();
  for (const std::exception_ptr& error : {failure, network_failure}) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace

void add_serve(CLI::App& app) {
  auto o = std::make_shared<ServeOptions>();
  CLI::App* command = app.add_subcommand(
      "serve", "OpenAI's API over HTTP: chat and completions, streamed or whole");
  o->models.tool_parser = o->models.reasoning_parser = "auto";
  command
      ->add_option("-m,--model", o->models.models,
                   std::string(ModelOptions::kModelHelp) +
                       "; may be repeated: a request's \"model\" says which of them, the first if "
                       "it says none")
      ->required()
      ->envname("TUTTI_MODEL");
  o->models.model.add_ways_to(*command);
  command
      ->add_option("--config", o->config,
                   "a JSON file of these options, as {\"port\": 8080, \"api-key\": [\"…\"]}; flags "
                   "and variables go before it")
      ->envname("TUTTI_CONFIG");
  const auto option = [&](const char* flags, auto& value, const char* help, const char* variable) {
    return command->add_option(flags, value, help)->envname(variable)->capture_default_str();
  };
  option("--served-model-name,-a,--alias", o->models.names,
         "names of the model, any of which may be asked for (default: its file's); of several "
         "models, one for each in their order, with further ones behind commas",
         "TUTTI_SERVED_MODEL_NAME");
  option(DraftModelOptions::kModelFlags, o->models.drafts,
         "a smaller model of the same vocabulary that drafts (also -md): methods draft and auto; "
         "with --draft-cores pearl, too. Of several models, one for each in their order, or none",
         "TUTTI_DRAFT_MODEL");
  o->models.draft.add_ways_to(*command, true);
  option("--host", o->host, "address to listen at", "TUTTI_HOST");
  option("--port", o->port, "port; 0: any free one", "TUTTI_PORT");
  option("--api-key", o->keys, "a key that opens every route but /health; may be repeated",
         "TUTTI_API_KEY");
  option("--api-key-file", o->key_file, "a file of keys, one a line, # before comments",
         "TUTTI_API_KEY_FILE");
  option("--tls-cert,--ssl-certfile", o->tls.certificate,
         "a certificate chain (PEM): the server speaks https", "TUTTI_TLS_CERT");
  option("--tls-key,--ssl-keyfile", o->tls.key, "its private key (PEM)", "TUTTI_TLS_KEY");
  option("--cors-origin", o->api.allowed_origin, "an origin that browsers may call from, or *",
         "TUTTI_CORS_ORIGIN");
  option("--max-num-seqs,-N,--parallel", o->models.worker.running,
         "requests that run at the same time", "TUTTI_MAX_NUM_SEQS")
      ->check(CLI::Range(1, 4096));
  option("--max-queue", o->models.worker.queued,
         "requests that may wait for that; more are refused (429)", "TUTTI_MAX_QUEUE")
      ->check(CLI::Range(0, 1 << 20));
  option("--queue-timeout", o->models.worker.queue_seconds, "seconds that one may wait (503)",
         "TUTTI_QUEUE_TIMEOUT")
      ->check(CLI::Range(1e-3, 1e7));
  option("--timeout", o->models.worker.run_seconds, "seconds that a request may take (408)",
         "TUTTI_TIMEOUT")
      ->check(CLI::Range(1e-3, 1e7));
  option("--max-tokens", o->api.limits.max_tokens,
         "most tokens that a request may ask for; 0: the context", "TUTTI_MAX_TOKENS")
      ->check(CLI::NonNegativeNumber);
  option("--max-choices", o->api.limits.choices, "greatest n", "TUTTI_MAX_CHOICES")
      ->check(CLI::Range(1, 1024));
  option("--max-inputs", o->api.limits.inputs, "texts of one embeddings body (400)",
         "TUTTI_MAX_INPUTS")
      ->check(CLI::Range(1, 1 << 20));
  option("--max-documents", o->api.limits.documents, "documents of one rerank body (400)",
         "TUTTI_MAX_DOCUMENTS")
      ->check(CLI::Range(1, 1 << 20));
  option("--max-images", o->api.limits.images, "images of one chat (400)", "TUTTI_MAX_IMAGES")
      ->check(CLI::Range(0, 1 << 10));
  option("--max-connections", o->http.connections, "connections at the same time (503)",
         "TUTTI_MAX_CONNECTIONS")
      ->check(CLI::Range(1, 1 << 20));
  option("--max-body", o->http.body_bytes, "bytes of a body (413)", "TUTTI_MAX_BODY")
      ->check(CLI::Range(size_t(1), size_t(1) << 32));
  option("--max-header", o->http.header_bytes, "bytes of a request's header (431)",
         "TUTTI_MAX_HEADER")
      ->check(CLI::Range(size_t(256), size_t(1) << 24));
  option("--read-timeout", o->http.read_seconds, "seconds for a whole request to arrive",
         "TUTTI_READ_TIMEOUT")
      ->check(CLI::Range(1e-3, 1e7));
  option("--idle-timeout", o->http.idle_seconds, "seconds that an idle connection stays",
         "TUTTI_IDLE_TIMEOUT")
      ->check(CLI::Range(1e-3, 1e7));
  option("--write-timeout", o->http.write_seconds, "seconds that a client may take nothing",
         "TUTTI_WRITE_TIMEOUT")
      ->check(CLI::Range(1e-3, 1e7));
  option("--stream-buffer", o->http.stream_bytes,
         "bytes that a slow client may leave unread; then it is dropped", "TUTTI_STREAM_BUFFER")
      ->check(CLI::Range(size_t(1024), size_t(1) << 30));
  option("--ping", o->http.ping_seconds, "seconds of silence before a comment goes out in a stream",
         "TUTTI_PING")
      ->check(CLI::Range(1e-3, 1e7));
  option("--grace", o->grace_seconds, "seconds that running requests have after SIGTERM",
         "TUTTI_GRACE")
      ->check(CLI::Range(0.0, 1e7));
  option(
      "-o,--option", o->method_settings,
      "key=value for the methods that have it, where a request does not say it; may be repeated. "
      "Files of methods (prompt_tokens, tree, maps) are named here, and read at the start",
      "TUTTI_OPTION");
  option("--tool-parser,--tool-call-parser", o->models.tool_parser,
         "how the model writes calls of tools; auto: as its chat template says",
         "TUTTI_TOOL_PARSER")
      ->check(CLI::IsMember(serve::tool_parser_names()));
  option("--reasoning-parser", o->models.reasoning_parser,
         "how it writes thoughts before an answer; auto: as its chat template says",
         "TUTTI_REASONING_PARSER")
      ->check(CLI::IsMember(serve::reasoning_parser_names()));
  option("--log-format", o->log_format, "of the lines about requests on stderr", "TUTTI_LOG_FORMAT")
      ->check(CLI::IsMember({"text", "json"}));
  command
      ->add_flag("--strict-api", o->api.limits.strict,
                 "refuse fields that are not known, instead of ignoring them")
      ->envname("TUTTI_STRICT_API");
  command->add_flag("--no-page", o->no_page, "no page at / and no score at /tutti/events")
      ->envname("TUTTI_NO_PAGE");
  command->callback([o, command] {
    o->api.server_options = options_document(*command);
    run_server(*o);
  });
}

}  // namespace tutti::cli

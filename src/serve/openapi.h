// GET /openapi.json: the routes, and the fields of their bodies as their readers look for them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "serve/text_request.h"

namespace tutti::serve {

struct OpenApiRoute {
  std::string method, path;
  bool open = false;  // without a key
};

// What of the models is a bound of a field.
struct OpenApiModels {
  std::vector<std::string> names;
  int vocabulary = 0;           // of the smallest
  std::vector<int> dimensions;  // of their vectors
};

// A document of OpenAPI 3.1. `server_options` goes in as "x-server-options" unless it is null.
nlohmann::ordered_json openapi_document(const std::vector<OpenApiRoute>& routes,
                                        const std::string& version, const RequestLimits& limits,
                                        const OpenApiModels& models, bool keys,
                                        const nlohmann::ordered_json& server_options);

// The schema of a body: "/v1/chat/completions", … Null for a path that takes none.
nlohmann::ordered_json body_schema(const std::string& path, const RequestLimits& limits,
                                   const OpenApiModels& models);

}  // namespace tutti::serve

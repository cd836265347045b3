#include "serve/message_parts.h"

#include <algorithm>
#include <string_view>

#include "base/base64.h"
#include "serve/api_error.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

// Kinds of parts that others take.
constexpr std::string_view kPartsOfOthers[] = {"input_audio", "file", "video_url", "refusal",
                                               "audio_url"};

const std::string& url_of(const Json& part, const std::string& place) {
  const auto image = part.find("image_url");
  if (image != part.end() && image->is_string()) return image->get_ref<const std::string&>();
  const auto url = image != part.end() && image->is_object() ? image->find("url") : part.end();
  if (image == part.end() || !image->is_object() || url == image->end() || !url->is_string())
    throw invalid(place + ": an image part needs \"image_url\": {\"url\": \"data:…\"}", "messages");
  return url->get_ref<const std::string&>();
}

std::vector<std::byte> image_of(const std::string& url, const std::string& place) {
  constexpr std::string_view kScheme = "data:", kCoding = ";base64";
  const size_t comma = url.find(',');
  if (!url.starts_with(kScheme) || comma == std::string::npos ||
      !std::string_view(url).substr(0, comma).ends_with(kCoding)) {
    throw invalid(place +
                      ": images are taken from \"data:image/png;base64,…\" alone; this server "
                      "fetches no address and reads no file",
                  "messages");
  }
  auto bytes = bytes_of_base64(std::string_view(url).substr(comma + 1));
  if (!bytes || bytes->empty())
    throw invalid(place + ": an image is no base64; send all of its bytes, padded", "messages");
  return std::move(*bytes);
}

}  // namespace

void read_parts(Json& content, const std::string& place, size_t most,
                std::vector<std::vector<std::byte>>& images) {
  std::string text;
  Json parts = Json::array();
  bool has_images = false;
  for (const Json& part : content) {
    const auto type = part.is_object() ? part.find("type") : part.end();
    if (!part.is_object() || type == part.end() || !type->is_string())
      throw invalid(place + ": every part needs a \"type\"", "messages");
    if (*type == "image_url") {
      if (images.size() >= most)
        throw invalid("messages: have more than " + std::to_string(most) + " images; send fewer",
                      "messages");
      images.push_back(image_of(url_of(part, place), place));
      parts.push_back({{"type", "image"}});
      has_images = true;
      continue;
    }
    if (std::ranges::find(kPartsOfOthers, type->get<std::string>()) != std::end(kPartsOfOthers)) {
      throw unsupported(place + ": parts of type " + type->get<std::string>() +
                            " are not supported; send text or images",
                        "messages");
    }
    if (*type != "text")
      throw invalid(place + ": has a part of an unknown type; send text or images", "messages");
    const auto piece = part.find("text");
    if (piece == part.end() || !piece->is_string())
      throw invalid(place + ": a text part needs \"text\"", "messages");
    text += piece->get<std::string>();
    parts.push_back({{"type", "text"}, {"text", *piece}});
  }
  content = has_images ? std::move(parts) : Json(std::move(text));
}

}  // namespace tutti::serve

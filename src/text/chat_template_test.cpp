#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/files.h"

namespace {

using nlohmann::ordered_json;
using tutti::Error;
using tutti::ErrorKind;
using tutti::text::ChatOptions;
using tutti::text::ChatTemplate;

Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return {ErrorKind::kSystem, ""};
}

std::string render(const std::string& source,
                   const ordered_json& context = ordered_json::object()) {
  return ChatTemplate::parse(source).render_context(context);
}

// Expected texts come from jinja2 (tests/conformance/make_jinja_cases.py).
TEST(ChatTemplate, EqualsJinja2) {
  const auto data =
      ordered_json::parse(tutti::read_file(TUTTI_SOURCE_DIR "/src/text/jinja_cases.json"));
  ASSERT_GE(data["cases"].size(), 500u);
  for (const auto& item : data["cases"]) {
    const std::string source = item["template"];
    try {
      const std::string text = render(source, data["context"]);
      if (item.contains("error")) {
        ADD_FAILURE() << source << "\n  jinja2: " << item["error"] << "\n  ours: " << text;
      } else {
        EXPECT_EQ(text, item["text"].get<std::string>()) << source;
      }
    } catch (const Error& error) {
      if (!item.contains("error")) ADD_FAILURE() << source << "\n  " << error.what();
    }
  }
}

TEST(ChatTemplate, SyntaxErrorsAreBadFilesAndNameTheLine) {
  for (const char* source :
       {"a\n\n{% if x %}", "a\n\n{{ 1 + }}", "\n\n{% nonsense %}", "\n\n{{ x|nonsense }}"}) {
    const Error error = error_of([&] { ChatTemplate::parse(source); });
    EXPECT_EQ(error.kind(), ErrorKind::kBadFile) << source;
    EXPECT_NE(std::string(error.what()).find("line 3"), std::string::npos) << error.what();
  }
}

TEST(ChatTemplate, RefusalsCarryTheTemplatesMessage) {
  const Error error = error_of([] { render("x\n{{ raise_exception('roles must alternate') }}"); });
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_STREQ(error.what(), "chat template line 2: roles must alternate");
}

TEST(ChatTemplate, HostileTemplatesMeetLimits) {
  const std::string endless =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
  const std::string doubling =
      "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% "
      "endfor %}";
  const std::string nesting =
      "{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = [n.l] %}{% endfor %}";
  const std::string sharing =
      "{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = [n.l, n.l] %}{% endfor "
      "%}{{ n.l }}";
  const std::string itself = "{% set n = namespace() %}{% set n.n = n %}{{ n }}";
  for (const std::string& source :
       {endless, doubling, nesting, sharing, itself, std::string("{{ 'ab' * 999999999999 }}"),
        std::string("{{ [1] * 999999999999 }}"),
        std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        std::string("{{ range(100001) }}"), std::string("{{ 'a'.center(99999999999) }}"),
        std::string("{{ '%99999999999d' % 1 }}"), std::string("{{ 'a'|indent(99999999999) }}"),
        std::string("{{ [1]|tojson(indent=99999999999) }}"), std::string("{{ 99 ** 99 }}"),
        std::string("{{ ('a' * 9999999).replace('a', 'b' * 9999999) }}")}) {
    const Error error = error_of([&] { render(source); });
    EXPECT_EQ(error.kind(), ErrorKind::kLimit) << source << "\n" << error.what();
  }
  for (const char* open : {"(", "[", "-", "not ", "{1:"}) {
    std::string deep;
    for (int i = 0; i < 100'000; ++i) deep += open;
    EXPECT_EQ(error_of([&] { ChatTemplate::parse("{{ " + deep + " }}"); }).kind(),
              ErrorKind::kBadFile);
  }
  std::string chain = "1";
  for (int i = 0; i < 100'000; ++i) chain += "+1";
  EXPECT_EQ(error_of([&] { ChatTemplate::parse("{{ " + chain + " }}"); }).kind(),
            ErrorKind::kBadFile);
}

TEST(ChatTemplate, DeepMessagesAreRefused) {
  ordered_json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = ordered_json::array({deep});
  EXPECT_EQ(error_of([&] { render("{{ x }}", {{"x", deep}}); }).kind(), ErrorKind::kLimit);
}

TEST(ChatTemplate, RendersMessagesWithItsTokensAndOptions) {
  const auto chat = ChatTemplate::parse(
      "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
      "{% if tools %}{{ tools | length }}{% endif %}{% if add_generation_prompt %}>{% endif %}{{ "
      "extra }}",
      {{"bos_token", "<s>"}});
  const ordered_json messages = {{{"role", "user"}, {"content", "hi"}}};
  EXPECT_EQ(chat.render(messages), "<s>[user]hi");
  ChatOptions options;
  options.add_generation_prompt = true;
  options.tools = ordered_json::array({1, 2});
  options.extra = {{"extra", "!"}, {"bos_token", "<b>"}};
  EXPECT_EQ(chat.render(messages, options), "<b>[user]hi2>!");
  EXPECT_EQ(error_of([&] { chat.render("text"); }).kind(), ErrorKind::kUsage);
}

TEST(ChatTemplate, TellsTheGivenTime) {
  ChatOptions options;
  options.now = std::chrono::system_clock::from_time_t(1735732800);
  const auto chat = ChatTemplate::parse("{{ strftime_now('%d %b %Y') }}");
  EXPECT_EQ(chat.render(ordered_json::array(), options), "01 Jan 2025");
}

TEST(ChatTemplate, RendersOnManyThreads) {
  const auto chat = ChatTemplate::parse("{% for m in messages %}{{ m|tojson }}{% endfor %}");
  const ordered_json messages = {{{"role", "user"}, {"content", "hi"}}};
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (auto& text : texts) threads.emplace_back([&] { text = chat.render(messages); });
  for (auto& thread : threads) thread.join();
  for (const auto& text : texts) EXPECT_EQ(text, R"({"role": "user", "content": "hi"})");
}

}  // namespace

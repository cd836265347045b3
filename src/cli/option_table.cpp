#include "cli/option_table.h"

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "base/error.h"
#include "base/files.h"
#include "cli/json_text.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

// The words of "TEXT:{a,b}", as CLI11 describes a choice.
std::vector<std::string> words_of(const std::string& type) {
  std::vector<std::string> words;
  const size_t open = type.find('{'), close = type.rfind('}');
  if (open == std::string::npos || close == std::string::npos || close < open) return words;
  std::string word;
  for (size_t i = open + 1; i <= close; ++i) {
    if (type[i] == ',' || i == close) {
      words.push_back(std::exchange(word, {}));
    } else {
      word += type[i];
    }
  }
  return words;
}

std::string spelled(std::string key) {
  for (char& c : key) {
    if (c == '_') c = '-';
  }
  return key;
}

// A value of a config file as the arguments that say the same.
void add_arguments(const OptionRow& row, const Json& value, const std::string& place,
                   std::vector<std::string>& out) {
  const std::string flag = row.flags.front();
  if (value.is_null()) return;
  if (row.is_flag) {
    if (!value.is_boolean()) throw Error(ErrorKind::kUsage, place + ": must be true or false");
    if (value.get<bool>()) out.push_back(flag);
  } else if (value.is_array()) {
    if (!row.many) throw Error(ErrorKind::kUsage, place + ": takes one value, not a list");
    for (const Json& one : value) add_arguments(row, one, place, out);
  } else if (value.is_string()) {
    out.push_back(flag + "=" + value.get<std::string>());
  } else if (value.is_number()) {
    out.push_back(flag + "=" + value.dump());
  } else {
    throw Error(ErrorKind::kUsage, place + ": must be a string, a number or a list of them");
  }
}

// Whether the arguments name the option: "--port 1", "--port=1", "-p 1", "-p1".
bool is_given(const OptionRow& row, const std::vector<std::string>& arguments) {
  return std::ranges::any_of(arguments, [&](const std::string& word) {
    return std::ranges::any_of(row.flags, [&](const std::string& flag) {
      const bool is_long = flag.starts_with("--");
      return word == flag || (is_long ? word.starts_with(flag + "=")
                                      : word.starts_with(flag) && !word.starts_with("--"));
    });
  });
}

// The file that the arguments or the environment name; empty: none.
std::string config_path(const std::vector<std::string>& arguments) {
  std::string path;
  if (const char* set = std::getenv("TUTTI_CONFIG")) path = set;
  constexpr std::string_view kFlag = "--config";
  for (size_t i = 1; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word == kFlag && i + 1 < arguments.size()) path = arguments[i + 1];
    if (word.starts_with(std::string(kFlag) + "=")) path = word.substr(kFlag.size() + 1);
  }
  return path;
}

}  // namespace

std::string OptionRow::key() const {
  const size_t name = flags.front().find_first_not_of('-');
  return name == std::string::npos ? "" : flags.front().substr(name);
}

bool OptionRow::answers_to(const std::string& key) const {
  return std::ranges::any_of(flags, [&](const std::string& flag) {
    return flag.starts_with("--") && flag.substr(2) == spelled(key);
  });
}

std::vector<OptionRow> option_table(const CLI::App& command) {
  std::vector<OptionRow> rows;
  for (const CLI::Option* option : command.get_options()) {
    if (option == command.get_help_ptr()) continue;
    OptionRow row;
    for (const std::string& name : option->get_lnames()) row.flags.push_back("--" + name);
    for (const std::string& name : option->get_snames()) row.flags.push_back("-" + name);
    if (row.flags.empty()) continue;  // a positional argument
    row.environment = option->get_envname();
    row.default_value = option->get_default_str();
    if (row.default_value == "[]" || row.default_value == "{}") row.default_value.clear();
    row.help = option->get_description();
    row.choices = words_of(option->get_type_name());
    row.is_flag = option->get_items_expected_max() == 0;
    row.many = option->get_items_expected_max() > 1;
    rows.push_back(std::move(row));
  }
  return rows;
}

void apply_config(const CLI::App& app, std::vector<std::string>& arguments) {
  if (arguments.empty()) return;
  const auto commands =
      app.get_subcommands([&](const CLI::App* one) { return one->check_name(arguments.front()); });
  if (commands.empty() || !commands.front()->get_option_no_throw("--config")) return;
  const CLI::App* command = commands.front();
  const std::string path = config_path(arguments);
  if (path.empty()) return;
  Json config;
  try {
    config = parse_json(read_file(path, 1 << 20));
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kUsage) throw;
    throw Error(ErrorKind::kUsage, path + ": " + e.what());
  }
  if (!config.is_object())
    throw Error(ErrorKind::kUsage, path + ": must hold a JSON object of options");
  const std::vector<OptionRow> rows = option_table(*command);
  std::vector<std::string> added;
  for (const auto& [key, value] : config.items()) {
    const std::string place = path + ": " + print_json(Json(key));
    const auto row =
        std::ranges::find_if(rows, [&](const OptionRow& r) { return r.answers_to(key); });
    if (row == rows.end() || row->key() == "config")
      throw Error(ErrorKind::kUsage,
                  place + " is no option; 'tutti " + arguments.front() + " --help' lists them");
    const char* set = row->environment.empty() ? nullptr : std::getenv(row->environment.c_str());
    if ((set && *set) || is_given(*row, arguments)) continue;
    add_arguments(*row, value, place, added);
  }
  arguments.insert(arguments.begin() + 1, added.begin(), added.end());
}

namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

struct Cases {
  std::string paths, values, words;  // lines of bash
};

void add_cases(const CLI::App& command, const std::string& path, Cases& out) {
  std::vector<std::string> flags{"--help"}, commands;
  for (const OptionRow& row : option_table(command)) {
    flags.insert(flags.end(), row.flags.begin(), row.flags.end());
    if (row.choices.empty()) continue;
    std::string pattern;
    for (const std::string& flag : row.flags)
      pattern += (pattern.empty() ? "\"" : "|\"") + path + " " + flag + "\"";
    out.values += "    " + pattern + ") words=\"" + joined(row.choices) + "\" ;;\n";
  }
  for (const CLI::App* sub : command.get_subcommands([](const CLI::App*) { return true; })) {
    commands.push_back(sub->get_name());
    const std::string below = path + " " + sub->get_name();
    out.paths += "      \"" + below + "\") path=\"" + below + "\" ;;\n";
    add_cases(*sub, below, out);
  }
  out.words += "    \"" + path + "\") flags=\"" + joined(flags) + "\" commands=\"" +
               joined(commands) + "\" ;;\n";
}

}  // namespace

std::string bash_completion(const CLI::App& app) {
  Cases cases;
  add_cases(app, "tutti", cases);
  return "# Completion for bash: source <(tutti completion bash)\n"
         "_tutti() {\n"
         "  local word=${COMP_WORDS[COMP_CWORD]} path=tutti words= flags= commands= i\n"
         "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
         "    case \"$path ${COMP_WORDS[i]}\" in\n" +
         cases.paths +
         "    esac\n"
         "  done\n"
         "  case \"$path ${COMP_WORDS[COMP_CWORD-1]}\" in\n" +
         cases.values +
         "  esac\n"
         "  case \"$path\" in\n" +
         cases.words +
         "  esac\n"
         "  if [[ -z $words ]]; then\n"
         "    if [[ $word == -* ]]; then words=$flags; else words=$commands; fi\n"
         "  fi\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
         "}\n"
         "complete -o default -F _tutti tutti\n";
}

}  // namespace tutti::cli

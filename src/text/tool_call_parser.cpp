#include "text/tool_call_parser.h"

#include <algorithm>
#include <utility>

namespace tutti::text {
namespace {

// Where the first of `literals` stands in `text`; else where a beginning of one stands at its end;
// else its size.
std::pair<size_t, std::string_view> find_first(std::string_view text,
                                               const std::vector<std::string_view>& literals) {
  size_t at = text.size();
  std::string_view found;
  for (const std::string_view literal : literals) {
    const size_t place = text.find(literal);
    if (place < at) {
      at = place;
      found = literal;
    }
  }
  if (!found.empty()) return {at, found};
  for (const std::string_view literal : literals) {
    for (size_t n = std::min(literal.size() - 1, text.size()); n > 0; --n) {
      if (text.ends_with(literal.substr(0, n))) {
        at = std::min(at, text.size() - n);
        break;
      }
    }
  }
  return {at, {}};
}

bool is_deepseek(ToolFormat format) {
  return format == ToolFormat::kDeepSeekV3 || format == ToolFormat::kDeepSeekV31;
}

// What may stand behind a call and says nothing there.
std::vector<std::string_view> closers_of(ToolFormat format) {
  std::vector<std::string_view> closers = tool_end_marks(format);
  if (is_deepseek(format)) closers.push_back("```");
  return closers;
}

}  // namespace

ToolCallParser::ToolCallParser(ToolFormat format, std::vector<std::string> names, OpenedCall opened)
    : format_(format),
      names_(names.begin(), names.end()),
      openers_(tool_openers(format)),
      end_marks_(tool_end_marks(format)) {
  if (!opened.opened) return;
  state_ = State::kBody;
  if (opened.name.empty()) return;
  // "…name<separator>": its arguments are next.
  state_ = State::kNamed;
  name_ = std::move(opened.name);
  name_done_ = true;
}

void ToolCallParser::push(std::string_view text, ToolText& out) {
  if (format_ == ToolFormat::kNone) {
    out.content += text;
    return;
  }
  buffer_ += text;
  while (!buffer_.empty() && step(out) == Step::kGoOn) {
  }
}

void ToolCallParser::finish(ToolText& out) {
  switch (state_) {
    case State::kBody:
    case State::kObject:
    case State::kNamed:
      if (!begun_) {
        raw_ += buffer_;
        buffer_.clear();
        give_up(out);
      }
      break;
    case State::kText:
      content(buffer_, out);
      break;
    case State::kBehind: {
      // Half a closing mark is none of the text's.
      const auto closers = closers_of(format_);
      const bool mark = std::ranges::any_of(closers, [&](auto c) { return could_begin(c); });
      if (!mark) content(buffer_, out);
      break;
    }
    case State::kArray:
      if (nothing_in_array()) give_up(out);
      break;
    case State::kArguments:
      break;
  }
  buffer_.clear();
  if (calls_ == 0) out.content += blanks_;
  blanks_.clear();
}

ToolCallParser::Step ToolCallParser::step(ToolText& out) {
  switch (state_) {
    case State::kText:
      return text(out);
    case State::kBody:
      return body(out);
    case State::kArray:
      return array(out);
    case State::kObject:
      return object(out);
    case State::kNamed:
      return named(out);
    case State::kArguments:
      return arguments(out);
    case State::kBehind:
      return format_ == ToolFormat::kLlama3 ? behind_bare(out) : behind(out);
  }
  return Step::kWait;
}

void ToolCallParser::content(std::string_view text, ToolText& out) {
  for (const char c : text) {
    if (is_json_blank(c)) {
      blanks_ += c;
      continue;
    }
    out.content += blanks_;
    blanks_.clear();
    out.content += c;
    said_ = true;
  }
}

void ToolCallParser::take_raw(size_t n) {
  raw_.append(buffer_, 0, n);
  take(n);
}

size_t ToolCallParser::skip_blanks() {
  size_t n = 0;
  while (n < buffer_.size() && is_json_blank(buffer_[n])) ++n;
  take_raw(n);
  return n;
}

bool ToolCallParser::swallow(std::string_view literal) {
  if (!std::string_view(buffer_).starts_with(literal)) return false;
  take_raw(literal.size());
  return true;
}

bool ToolCallParser::could_begin(std::string_view literal) const {
  return buffer_.size() < literal.size() && literal.starts_with(buffer_);
}

ToolCallParser::Step ToolCallParser::text(ToolText& out) {
  if (format_ == ToolFormat::kLlama3 && !said_ && calls_ == 0) {
    // The whole text may be a bare object.
    size_t n = 0;
    while (n < buffer_.size() && is_json_blank(buffer_[n])) ++n;
    content(std::string_view(buffer_).substr(0, n), out);
    take(n);
    if (buffer_.empty()) return Step::kWait;
    if (buffer_.front() == '{') {
      raw_.clear();
      bare_ = true;
      begin_object();
      return Step::kGoOn;
    }
  }
  // The end of a call that had a bracket too many or too few stands behind some text.
  std::vector<std::string_view> marks = openers_;
  if (unclosed_) marks.insert(marks.end(), end_marks_.begin(), end_marks_.end());
  const auto [at, found] = find_first(buffer_, marks);
  content(std::string_view(buffer_).substr(0, at), out);
  take(at);
  if (found.empty()) return Step::kWait;
  const bool closes = std::ranges::find(end_marks_, found) != end_marks_.end();
  unclosed_ = false;
  if (closes) {
    take(found.size());
    state_ = State::kBehind;
    return Step::kGoOn;
  }
  raw_.clear();
  take_raw(found.size());
  bare_ = in_array_ = false;
  name_.clear();
  id_.clear();
  name_done_ = reads_id_ = kind_first_ = false;
  state_ = State::kBody;
  return Step::kGoOn;
}

// Behind the mark that opens a call.
ToolCallParser::Step ToolCallParser::body(ToolText& out) {
  skip_blanks();
  if (buffer_.empty()) return Step::kWait;
  const char c = buffer_.front();
  if (is_deepseek(format_)) {
    if (swallow(kDeepSeekCall)) return Step::kGoOn;
    if (could_begin(kDeepSeekCall)) return Step::kWait;
  }
  const bool mistral = format_ == ToolFormat::kMistral || format_ == ToolFormat::kMistralArgs;
  if (mistral && c == '[') {
    in_array_ = true;
    take_raw(1);
    state_ = State::kArray;
    return Step::kGoOn;
  }
  if (c == '{' && !is_deepseek(format_)) {
    begin_object();
    return Step::kGoOn;
  }
  if ((mistral || is_deepseek(format_)) && is_tool_name_character(c)) {
    state_ = State::kNamed;
    begun_ = false;
    return Step::kGoOn;
  }
  give_up(out);
  return Step::kGoOn;
}

// Before an element of an array of calls, or its end.
ToolCallParser::Step ToolCallParser::array(ToolText& out) {
  skip_blanks();
  if (buffer_.empty()) return Step::kWait;
  switch (buffer_.front()) {
    case ',':
      take_raw(1);
      return Step::kGoOn;
    case ']':
      take_raw(1);
      if (nothing_in_array()) {
        give_up(out);
        return Step::kGoOn;
      }
      raw_.clear();
      in_array_ = false;
      state_ = State::kBehind;
      return Step::kGoOn;
    case '{':
      begin_object();
      return Step::kGoOn;
    default:
      give_up(out);
      return Step::kGoOn;
  }
}

void ToolCallParser::begin_call(ToolText& out) {
  begun_ = true;
  raw_.clear();
  blanks_.clear();
  out.calls.push_back({calls_++, name_, id_, ""});
  if (!held_arguments_.empty()) add_arguments(std::exchange(held_arguments_, {}), out);
}

void ToolCallParser::add_arguments(std::string_view piece, ToolText& out) {
  if (!begun_) {
    held_arguments_ += piece;
    return;
  }
  if (out.calls.empty() || out.calls.back().index != calls_ - 1)
    out.calls.push_back({calls_ - 1, "", "", ""});
  out.calls.back().arguments += piece;
}

void ToolCallParser::end_call() {
  begun_ = false;
  unclosed_ = true;
  raw_.clear();
  bare_ = false;
}

// It is no call: all that was read of it is text.
void ToolCallParser::give_up(ToolText& out) {
  const bool bare = std::exchange(bare_, false);
  state_ = State::kText;
  in_array_ = begun_ = false;
  content(std::exchange(raw_, {}), out);
  // An object that is no call is an answer of its own.
  if (bare) said_ = true;
}

// name[ARGS]{…}, name<｜tool▁sep｜>{…}, function<｜tool▁sep｜>name\n```json\n{…}
ToolCallParser::Step ToolCallParser::named(ToolText& out) {
  if (skip_blanks() > 0 && !name_.empty()) name_done_ = true;
  if (buffer_.empty()) return Step::kWait;
  const bool deepseek = is_deepseek(format_);
  for (const std::string_view mark :
       deepseek ? std::vector<std::string_view>{kDeepSeekSeparator, "```json"}
                : std::vector<std::string_view>{kMistralArguments, kMistralId}) {
    if (could_begin(mark)) return Step::kWait;
    if (!swallow(mark)) continue;
    name_done_ = true;
    reads_id_ = mark == kMistralId;
    // In the older style the kind of the call stands first.
    kind_first_ = mark == kDeepSeekSeparator && name_ == "function";
    return Step::kGoOn;
  }
  const char c = buffer_.front();
  if (std::exchange(kind_first_, false) && c != '{') {
    name_.clear();
    name_done_ = false;
  }
  if (c == '{' && is_tool_name(name_)) {
    begin_call(out);
    span_ = {};
    state_ = State::kArguments;
    return Step::kGoOn;
  }
  if (is_tool_name_character(c) && (!name_done_ || reads_id_)) {
    (reads_id_ ? id_ : name_) += c;
    take_raw(1);
    return Step::kGoOn;
  }
  give_up(out);
  return Step::kGoOn;
}

ToolCallParser::Step ToolCallParser::arguments(ToolText& out) {
  size_t n = 0;
  bool ended = false;
  while (n < buffer_.size() && !ended) {
    const auto step = span_.push(buffer_[n]);
    if (step == JsonValueSpan::Step::kBad) break;
    ++n;
    ended = step == JsonValueSpan::Step::kLast;
  }
  add_arguments(std::string_view(buffer_).substr(0, n), out);
  const bool bad = !ended && n < buffer_.size();
  take(n);
  if (!ended && !bad) return Step::kWait;
  end_call();
  name_.clear();
  id_.clear();
  name_done_ = reads_id_ = kind_first_ = false;
  state_ = bad ? State::kText : State::kBehind;
  return Step::kGoOn;
}

ToolCallParser::Step ToolCallParser::behind(ToolText& out) {
  size_t n = 0;
  while (n < buffer_.size() && is_json_blank(buffer_[n])) ++n;
  content(std::string_view(buffer_).substr(0, n), out);
  take(n);
  if (buffer_.empty()) return Step::kWait;
  for (const std::string_view mark : closers_of(format_)) {
    if (could_begin(mark)) return Step::kWait;
    if (!std::string_view(buffer_).starts_with(mark)) continue;
    take(mark.size());
    blanks_.clear();
    if (std::ranges::find(end_marks_, mark) != end_marks_.end()) unclosed_ = false;
    return Step::kGoOn;
  }
  if (format_ == ToolFormat::kHermes && buffer_.front() == '{') {
    raw_.clear();
    begin_object();
    return Step::kGoOn;
  }
  state_ = State::kText;
  return Step::kGoOn;
}

// The separators of bare calls are text unless a call follows.
ToolCallParser::Step ToolCallParser::behind_bare(ToolText& out) {
  size_t n = 0;
  while (n < buffer_.size() && (is_json_blank(buffer_[n]) || buffer_[n] == ';')) ++n;
  take_raw(n);
  if (buffer_.empty()) return Step::kWait;
  if (buffer_.front() == '{') {
    bare_ = true;
    begin_object();
    return Step::kGoOn;
  }
  content(std::exchange(raw_, {}), out);
  state_ = State::kText;
  return Step::kGoOn;
}

}  // namespace tutti::text

// Calls of functions in a model's text, as it comes: what is text goes out as text, what is a call
// as its name and then its arguments, piece by piece. The result does not depend on how the text is
// cut into pieces.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_value_span.h"
#include "text/tool_format.h"

namespace tutti::text {

struct ToolCallPiece {
  int index = 0;     // of the call in this answer
  std::string name;  // with its first piece only
  std::string id;    // likewise; empty: the model gave none
  std::string arguments;
};

struct ToolText {
  std::string content;
  std::vector<ToolCallPiece> calls;
};

// Where the prompt left off, when it began a call itself (tool_call_grammar.h).
struct OpenedCall {
  bool opened = false;
  std::string name;  // of the function, when the prompt names it
};

class ToolCallParser {
 public:
  // `names`: of the functions; bare JSON is a call only when it names one of them.
  ToolCallParser(ToolFormat format, std::vector<std::string> names, OpenedCall opened = {});

  void push(std::string_view text, ToolText& out);
  // The end of the text. What began like a call and is none becomes content.
  void finish(ToolText& out);
  int calls() const { return calls_; }  // so far

 private:
  enum class State { kText, kBody, kArray, kObject, kNamed, kArguments, kBehind };
  // What is read of {"name": …, "arguments": …}.
  enum class Place { kOpen, kKeyOrEnd, kKey, kKeyText, kColon, kValue, kInValue, kCommaOrEnd };
  enum class Step { kGoOn, kWait };

  Step step(ToolText& out);
  Step text(ToolText& out);
  Step body(ToolText& out);
  Step array(ToolText& out);
  Step object(ToolText& out);
  Step named(ToolText& out);
  Step arguments(ToolText& out);
  Step behind(ToolText& out);
  Step behind_bare(ToolText& out);

  // One character of a call's object; false: it is none.
  bool object_character(char c, ToolText& out);
  bool value_ends(ToolText& out);
  void begin_object();
  void begin_call(ToolText& out);
  void add_arguments(std::string_view piece, ToolText& out);
  void end_call();
  // Its bracket is still kept: no call has begun since.
  bool nothing_in_array() const { return raw_.find('[') != std::string::npos; }
  void give_up(ToolText& out);
  void content(std::string_view text, ToolText& out);
  void take(size_t n) { buffer_.erase(0, n); }
  void take_raw(size_t n);
  size_t skip_blanks();
  bool swallow(std::string_view literal);
  bool could_begin(std::string_view literal) const;

  ToolFormat format_;
  std::set<std::string> names_;
  std::vector<std::string_view> openers_, end_marks_;
  State state_ = State::kText;
  std::string buffer_;  // not yet read
  std::string blanks_;  // white space that goes out when text follows
  std::string raw_;     // of a call that has not begun: content, if it turns out to be none
  int calls_ = 0;
  bool said_ = false;      // some content that is not blank
  bool bare_ = false;      // a JSON object without a mark before it
  bool in_array_ = false;  // the calls stand in one
  bool unclosed_ = false;  // a call has ended, and the mark that ends it has not come
  // Of the call in the making.
  Place place_ = Place::kOpen;
  JsonValueSpan span_;
  std::string key_, value_, name_, id_, held_arguments_;
  bool has_name_ = false, has_arguments_ = false, begun_ = false;
  // Of kNamed: whether the name is whole, whether an id is read, whether the name may follow.
  bool name_done_ = false, reads_id_ = false, kind_first_ = false;
};

}  // namespace tutti::text

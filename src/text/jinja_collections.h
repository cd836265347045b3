// The filters over lists and dicts.
#pragma once

#include "text/jinja_value.h"

namespace tutti::text::jinja {

Value batch(Renderer& r, const Value& v, const Args& args);
Value dict_sort(Renderer& r, const Value& v, const Args& args);
Value first(Renderer& r, const Value& v, const Args& args);
Value group_by(Renderer& r, const Value& v, const Args& args);
Value items(Renderer& r, const Value& v, const Args& args);
Value join(Renderer& r, const Value& v, const Args& args);
Value last(Renderer& r, const Value& v, const Args& args);
Value list(Renderer& r, const Value& v, const Args& args);
Value map(Renderer& r, const Value& v, const Args& args);
Value max(Renderer& r, const Value& v, const Args& args);
Value min(Renderer& r, const Value& v, const Args& args);
Value reject(Renderer& r, const Value& v, const Args& args);
Value reject_attribute(Renderer& r, const Value& v, const Args& args);
Value reverse(Renderer& r, const Value& v, const Args& args);
Value select(Renderer& r, const Value& v, const Args& args);
Value select_attribute(Renderer& r, const Value& v, const Args& args);
Value slices(Renderer& r, const Value& v, const Args& args);
Value sort(Renderer& r, const Value& v, const Args& args);
Value sum(Renderer& r, const Value& v, const Args& args);
Value unique(Renderer& r, const Value& v, const Args& args);

}  // namespace tutti::text::jinja

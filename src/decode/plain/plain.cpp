#include "decode/plain/plain.h"

#include "decode/generation.h"

namespace tutti::decode {

Task<void> plain(Generation& g) {
  engine::Context context = co_await g.prefill();
  while (!g.done()) {
    const int position = context.next_position();
    engine::Rows rows;
    rows.rows.emplace_back(g.last_token(), position);
    rows.rows.back().want = g.want(position + 1);
    const engine::Answer answer = co_await g.forward(context, std::move(rows));
    g.emit(answer.rows.front().picked);
  }
}

}  // namespace tutti::decode

#include "vision/answer_padding.h"

#include <bit>

namespace tutti::vision {

int padded_length(int length, Draws& draws) {
  const int least = length + 1;
  const int most = length < 16 ? int(std::bit_ceil(unsigned(least))) : 16 * (length / 16 + 1);
  return least + draws.below(most - least + 1);
}

}  // namespace tutti::vision

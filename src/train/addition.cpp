#include "train/addition.h"

namespace tutti::train {

std::string addition_scratchpad(int a, int b) {
  std::string out;
  int carry = 0;
  for (int left = a, right = b; left > 0 || right > 0 || out.empty(); left /= 10, right /= 10) {
    const int sum = left % 10 + right % 10 + carry;
    out += std::to_string(left % 10) + "+" + std::to_string(right % 10) + "+" +
           std::to_string(carry) + "=" + std::to_string(sum) + " ";
    carry = sum / 10;
  }
  return out + std::to_string(a + b);
}

Problem Addition::draw(Draws& draws) const {
  const auto number = [&] {
    int bound = 1;
    for (int digits = 1 + draws.below(kMostDigits); digits > 0; --digits) bound *= 10;
    return draws.below(bound);
  };
  const int a = number(), b = number();
  return {std::to_string(a) + "+" + std::to_string(b) + "=", addition_scratchpad(a, b)};
}

}  // namespace tutti::train

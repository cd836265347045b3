#include "text/wordpiece.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tutti::text {
namespace {

std::vector<int32_t> encoded(const Vocabulary& vocabulary, const std::string& word) {
  WordPieceRules rules;
  rules.continuing_prefix = "##";
  rules.longest_word = 1 << 30;
  rules.unknown = 0;
  std::vector<int32_t> ids;
  encode_wordpiece(vocabulary, rules, word, ids);
  return ids;
}

// A word of a million letters that match one at a time: looked at to its end from each of them, it
// would take days.
TEST(WordPiece, TakesTimeInProportionToTheLengthOfAWord) {
  const Vocabulary vocabulary({{"?"}, {"a"}, {"##a"}, {"##bbbbbbbbbbbbbbbbbbbb"}}, "test");
  constexpr size_t kLetters = size_t(1) << 20;
  std::vector<int32_t> expected(kLetters, 2);
  expected.front() = 1;
  EXPECT_EQ(encoded(vocabulary, std::string(kLetters, 'a')), expected);
}

TEST(WordPiece, FindsTokensAsLongAsTheVocabularyHasThem) {
  const Vocabulary vocabulary({{"?"}, {"ab"}, {"##cdef"}, {"##c"}, {"##é"}, {"abcdefgh"}}, "test");
  EXPECT_EQ(encoded(vocabulary, "abcdef"), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(encoded(vocabulary, "abcdefgh"), (std::vector<int32_t>{5}));
  EXPECT_EQ(encoded(vocabulary, "abcéc"), (std::vector<int32_t>{1, 3, 4, 3}));
  EXPECT_EQ(encoded(vocabulary, "abcd"), (std::vector<int32_t>{0}));
  // The mark that goes on with a word is as long as any token: none can follow.
  EXPECT_EQ(encoded(Vocabulary({{"?"}, {"a"}, {"b"}}, "test"), "ab"), (std::vector<int32_t>{0}));
}

}  // namespace
}  // namespace tutti::text

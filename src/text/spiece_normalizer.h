// What a SentencePiece model does to text before it segments it: replacements by its own table,
// spaces. Source: sentencepiece 0.2 (normalizer.cc) and the Darts-clone double array in which the
// table is stored; files are hostile.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tutti::text {

class SpieceNormalizer {
 public:
  // The model's NormalizerSpec. Throws Error(kBadFile) that starts with `place` for a damaged
  // table.
  struct Spec {
    std::string charsmap;  // precompiled_charsmap: table size, double array, replacements ended by
                           // zeros. May be empty
    bool dummy_prefix = true, remove_extra_spaces = true, escape_spaces = true;
    bool space_is_suffix = false;           // treat_whitespace_as_suffix
    std::vector<std::string> user_defined;  // pieces that no replacement touches
  };
  SpieceNormalizer(Spec spec, const std::string& place);

  // Well-formed UTF-8. `continues`: no space is put before the text, and one with which it begins
  // stays.
  std::string apply(std::string_view text, bool continues) const;

 private:
  struct Piece {
    std::string_view text;  // what stands for the first `size` bytes
    size_t size;
  };
  Piece next(std::string_view text) const;

  Spec spec_;
  std::vector<uint32_t> units_;    // of the double array
  std::string_view replacements_;  // in spec_.charsmap
};

}  // namespace tutti::text

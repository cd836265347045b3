// Malformed and hostile GGUF files. The cases follow the defects that were found in real readers
// (sheet 00-serving section 7); each must be refused with an error that names the file and the
// field.
#include <gtest/gtest.h>

#include "base/error.h"
#include "formats/crafted_bytes.h"
#include "formats/gguf.h"

namespace tutti::formats {
namespace {

struct Case {
  const char* name;
  CraftedBytes file;
  const char* says;  // a part of the message
  ErrorKind kind = ErrorKind::kBadFile;
};

constexpr uint32_t kU8 = 0, kU32 = 4, kF32 = 6, kBool = 7, kString = 8, kArray = 9, kU64 = 10;

CraftedBytes start(uint64_t tensors, uint64_t pairs) {
  return CraftedBytes().header(tensors, pairs);
}

CraftedBytes nested_arrays(int depth) {
  CraftedBytes file = start(0, 1).key("k", kArray);
  for (int i = 1; i < depth; ++i) file.u32(kArray).u64(1);
  return file.u32(kU8).u64(1).u8(0);
}

std::vector<Case> cases() {
  constexpr uint64_t kHuge = ~uint64_t(0), kTop = uint64_t(1) << 63;
  std::vector<Case> list;
  const auto add = [&](const char* name, const CraftedBytes& file, const char* says,
                       ErrorKind kind = ErrorKind::kBadFile) {
    list.push_back({name, file, says, kind});
  };
  add("empty_file", CraftedBytes(), "does not start with \"GGUF\"");
  add("short_magic", CraftedBytes().raw("GGU"), "does not start with \"GGUF\"");
  add("wrong_magic", CraftedBytes().raw("GGML").u32(3).u64(0).u64(0), "does not start with");
  add("version_0", CraftedBytes().header(0, 0, 0), "version 0");
  add("version_1", CraftedBytes().header(0, 0, 1), "version 1", ErrorKind::kUnsupported);
  add("version_4", CraftedBytes().header(0, 0, 4), "version 4", ErrorKind::kUnsupported);
  add("big_endian", CraftedBytes().header(0, 0, 0x03000000), "big-endian", ErrorKind::kUnsupported);
  add("cut_in_header", CraftedBytes().raw("GGUF").u32(3).u32(0), "needs 8 bytes at offset 8");
  add("tensor_count_huge", start(kHuge, 0), "claims 18446744073709551615 tensors");
  add("tensor_count_beyond_file", start(2, 0).zeros(40), "claims 2 tensors");
  add("pair_count_huge", start(0, kHuge), "metadata pairs");
  add("pair_count_wraps", start(0, kTop / 7), "metadata pairs");

  add("key_longer_than_file", start(0, 1).u64(1000).zeros(20), "needs 1000 bytes");
  add("key_longer_than_limit", start(0, 1).u64(65536).zeros(70000), "claims 65536 bytes");
  add("key_length_huge", start(0, 1).u64(kHuge).zeros(20), "claims 18446744073709551615 bytes");
  add("key_empty", start(0, 1).key("", kU8).u8(1).u8(0).zeros(8), "is empty");
  add("key_with_nul", start(0, 1).key(std::string_view("a\0b", 3), kU8).u8(1), "\"a\\x00b\"");
  add("key_twice", start(0, 2).key("a", kU32).u32(1).key("a", kU32).u32(2),
      "\"a\": the key occurs twice");
  add("value_type_13", start(0, 1).key("k", 13).u64(0), "value type 13");
  add("value_type_huge", start(0, 1).key("k", 0xffffffff).u64(0), "value type 4294967295");
  add("value_cut", start(0, 1).key("key", kU64).u32(0), "\"key\": needs 8 bytes");
  add("bool_2", start(0, 1).key("flag", kBool).u8(2), "\"flag\": a bool is 2");
  add("string_longer_than_file", start(0, 1).key("s", kString).u64(100).zeros(10),
      "needs 100 bytes");
  add("string_length_huge", start(0, 1).key("s", kString).u64(kHuge),
      "claims 18446744073709551615");
  add("string_over_cap", start(0, 1).key("s", kString).u64((64u << 20) + 1), "at most 67108864");

  add("array_type_13", start(0, 1).key("a", kArray).u32(13).u64(1).u8(0), "value type 13");
  add("array_count_huge", start(0, 1).key("a", kArray).u32(kU8).u64(kHuge), "array elements");
  add("array_count_times_width_wraps",
      start(0, 1).key("a", kArray).u32(kU32).u64(uint64_t(1) << 62).u32(0), "array elements");
  add("array_cut", start(0, 1).key("a", kArray).u32(kF32).u64(3).u64(0), "claims 3 array elements");
  add("array_of_bytes_claimed_as_floats", start(0, 1).key("a", kArray).u32(kF32).u64(4).u32(0),
      "claims 4 array elements");
  add("array_strings_huge", start(0, 1).key("a", kArray).u32(kString).u64(uint64_t(1) << 61).u64(0),
      "strings");
  add("array_string_cut", start(0, 1).key("a", kArray).u32(kString).u64(1).u64(9).raw("short"),
      "needs 9 bytes");
  add("array_bool_7", start(0, 1).key("a", kArray).u32(kBool).u64(2).u8(1).u8(7), "a bool is 7");
  add("array_too_deep", nested_arrays(5), "nested deeper than 4");
  add("array_very_deep", nested_arrays(100), "nested deeper than 4");
  add("array_arrays_huge", start(0, 1).key("a", kArray).u32(kArray).u64(kHuge).u64(0), "arrays");

  const auto alignment = [&](uint32_t v) {
    return start(0, 1).key("general.alignment", kU32).u32(v);
  };
  add("alignment_0", alignment(0), "general.alignment\": is 0");
  add("alignment_13", alignment(13), "general.alignment\": is 13");
  add("alignment_4", alignment(4), "general.alignment\": is 4");
  add("alignment_2_31", alignment(1u << 31), "general.alignment\": is 2147483648");
  add("alignment_u64", start(0, 1).key("general.alignment", kU64).u64(32), "is u64, not u32");
  add("alignment_string", start(0, 1).key("general.alignment", kString).text("32"), "is string");

  const auto one = [&] { return start(1, 0); };
  add("tensor_name_empty", one().tensor("", {4}, 0, 0).zeros(64), "is empty");
  add("tensor_name_65", one().tensor(std::string(65, 'n'), {4}, 0, 0).zeros(64), "at most 64");
  add("tensor_name_newline", one().tensor("a\nb", {4}, 0, 0).zeros(64), "control character");
  add("tensor_name_twice",
      start(2, 0).tensor("w", {8}, 0, 0).tensor("w", {8}, 0, 32).align(32).zeros(64),
      "\"w\": the name occurs twice");
  add("tensor_no_dims", one().tensor("w", {}, 0, 0).zeros(64), "has 0 dimensions");
  add("tensor_5_dims", one().tensor("w", {1, 1, 1, 1, 1}, 0, 0).zeros(64), "has 5 dimensions");
  add("tensor_dims_huge", one().text("w").u32(0xffffffff).zeros(64), "has 4294967295 dimensions");
  add("tensor_dim_0", one().tensor("w", {4, 0}, 0, 0).zeros(64), "dimension 1 is 0");
  add("tensor_dim_negative", one().tensor("w", {kHuge}, 0, 0).zeros(64), "2^63");
  add("tensor_dims_wrap", one().tensor("w", {uint64_t(1) << 32, uint64_t(1) << 32}, 0, 0).zeros(64),
      "2^63");
  add("tensor_dims_wrap_to_small",
      one().tensor("w", {uint64_t(1) << 32, uint64_t(1) << 31, 2, 16}, 0, 0).zeros(64), "2^63");
  add("tensor_bytes_wrap", one().tensor("w", {uint64_t(1) << 62}, 0, 0).zeros(64), "overflow");
  add("tensor_sum_wraps",
      start(2, 0)
          .tensor("a", {uint64_t(1) << 61}, 0, 0)
          .tensor("b", {uint64_t(1) << 61}, 0, kTop)
          .zeros(64),
      "overflow");
  // (2^62 - 1) floats are 4 bytes short of 2^64: the padding would wrap to zero.
  add("tensor_padding_wraps", one().tensor("w", {(uint64_t(1) << 62) - 1}, 0, 0).zeros(64),
      "overflow");
  add("tensor_type_4", one().tensor("w", {32}, 4, 0).zeros(64), "4 (Q4_2)",
      ErrorKind::kUnsupported);
  add("tensor_type_Q2_K", one().tensor("w", {256}, 10, 0).zeros(128), "10 (Q2_K)",
      ErrorKind::kUnsupported);
  add("tensor_type_huge", one().tensor("w", {32}, 0xfffffff0, 0).zeros(64), "4294967280",
      ErrorKind::kUnsupported);
  add("tensor_row_no_block_multiple", one().tensor("w", {33}, 8, 0).zeros(128),
      "elements of a Q8_0");
  add("tensor_k_row_576", one().tensor("w", {576}, 12, 0).zeros(512), "256 elements of a Q4_K");
  add("tensor_offset_unaligned", one().tensor("w", {8}, 0, 4).zeros(96), "offset 4");
  add("tensor_offset_hole",
      start(2, 0).tensor("a", {8}, 0, 0).tensor("b", {8}, 0, 64).align(32).zeros(128),
      "32 was expected");
  add("tensor_offset_overlap",
      start(2, 0).tensor("a", {8}, 0, 0).tensor("b", {8}, 0, 0).align(32).zeros(128),
      "offset 0 leaves");
  add("tensor_offset_huge", one().tensor("w", {8}, 0, kHuge).zeros(64),
      "offset 18446744073709551615");
  add("tensor_info_cut", one().text("w").u32(1).u64(4).u32(0).zeros(4), "claims 1 tensors");
  add("tensor_info_cut_late", one().text("wwwwwwwwww").u32(1).u64(4).u32(0).zeros(4),
      "needs 8 bytes");
  add("data_absent", one().tensor("w", {8}, 0, 0), "end behind the file");
  add("data_cut", one().tensor("w", {8}, 0, 0).align(32).zeros(31), "end behind the file's");
  add("data_huge", one().tensor("w", {uint64_t(1) << 40}, 0, 0).align(32).zeros(64), "end behind");
  add("data_cut_by_other_alignment",
      start(1, 1)
          .key("general.alignment", kU32)
          .u32(4096)
          .tensor("w", {8}, 0, 0)
          .align(32)
          .zeros(32),
      "end behind");
  return list;
}

TEST(GgufMalformed, EveryCaseIsRefusedAndNamed) {
  const auto list = cases();
  EXPECT_GE(list.size(), 60u);
  for (const Case& c : list) {
    SCOPED_TRACE(c.name);
    try {
      Gguf::parse(c.file.bytes(), "hostile.gguf");
      ADD_FAILURE() << "was accepted";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(int(error.kind()), int(c.kind)) << message;
      EXPECT_NE(message.find(c.says), std::string::npos) << message;
      EXPECT_TRUE(message.starts_with("hostile.gguf: ")) << message;
      EXPECT_NE(message.find("; "), std::string::npos) << "says nothing to do: " << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      EXPECT_LT(message.size(), 400u) << message;
    }
  }
}

// A valid file cut anywhere is refused, except where only padding behind the last tensor is lost.
TEST(GgufMalformed, EveryTruncationIsRefused) {
  CraftedBytes file = start(2, 3);
  file.key("general.name", kString).text("cut me");
  file.key("a", kArray).u32(kString).u64(2).text("x").text("yz");
  file.key("n", kU32).u32(7);
  file.tensor("a", {32, 2}, 8, 0).tensor("b", {3}, 0, 96).align(32).zeros(96).zeros(32);
  const std::span<const std::byte> whole = file.bytes();
  ASSERT_NO_THROW(Gguf::parse(whole, "whole"));
  const size_t needed = whole.size() - 20;  // b has 12 bytes of 32
  for (size_t n = 0; n < whole.size(); ++n) {
    const std::vector<std::byte> cut(whole.begin(),
                                     whole.begin() + long(n));  // own heap block: ASan
    if (n < needed) {
      EXPECT_THROW(Gguf::parse(cut, "cut"), Error) << n;
    } else {
      EXPECT_NO_THROW(Gguf::parse(cut, "cut")) << n;
    }
  }
}

TEST(GgufMalformed, WhatIsOddButRightIsAccepted) {
  EXPECT_NO_THROW(Gguf::parse(start(0, 0).bytes(), "empty"));
  EXPECT_NO_THROW(Gguf::parse(CraftedBytes().header(0, 0, 2).bytes(), "version 2"));
  EXPECT_NO_THROW(Gguf::parse(nested_arrays(4).bytes(), "nested"));
  EXPECT_NO_THROW(
      Gguf::parse(start(0, 1).key("a", kArray).u32(kString).u64(0).bytes(), "no strings"));
  EXPECT_NO_THROW(Gguf::parse(start(0, 1).key("s", kString).text("").bytes(), "empty text"));
  const auto wide = start(2, 1)
                        .key("general.alignment", kU32)
                        .u32(128)
                        .tensor("a", {3}, 0, 0)
                        .tensor("b", {1, 1, 1, 1}, 1, 128)
                        .align(128)
                        .zeros(256);
  const Gguf file = Gguf::parse(wide.bytes(), "wide");
  EXPECT_EQ(file.alignment(), 128u);
  EXPECT_EQ(file.tensor("b").data.size(), 2u);
  EXPECT_EQ(file.tensor("b").data.data(), file.tensor("a").data.data() + 128);
}

}  // namespace
}  // namespace tutti::formats

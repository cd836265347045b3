// Maps as files: what is written is read, and what does not fit is named.
#include "train/transfer_maps.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "check/guess_kind.h"

namespace tutti::train {
namespace {

namespace fs = std::filesystem;

TransferMaps small_maps() {
  TransferMaps m;
  m.hidden = 3;
  m.layers = 4;
  m.vocab = 9;
  m.model = 0x00ab00cd12345678;
  m.enter = {2, 3};
  for (int i = 0; i < 2; ++i) {
    TransferMaps::Map map;
    for (int j = 0; j < 9; ++j) map.weight.push_back(float(j - 4) * 0.25f + float(i));
    map.bias = {0.5f, float(i), -2};
    m.maps.push_back(map);
  }
  m.acceptance.assign(2, std::vector<double>(size_t(check::kGuessKinds) + 1, 0.25));
  return m;
}

class TransferMapsFile : public testing::Test {
 protected:
  fs::path folder_ = fs::path(testing::TempDir()) / "tutti-transfer-maps";
  void TearDown() override { fs::remove_all(folder_); }
  std::string refused() const {
    try {
      TransferMaps::read(folder_);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  // Writes the configuration with one value changed.
  void change(const char* key, const nlohmann::json& value) {
    auto config = nlohmann::json::parse(read_file(folder_ / "config.json"));
    config[key] = value;
    write_file_atomically(folder_ / "config.json", config.dump());
  }
};

TEST_F(TransferMapsFile, ComesBack) {
  TransferMaps m = small_maps();
  for (const bool half : {false, true}) {  // these numbers are the same in fp16
    m.write(folder_, half);
    const TransferMaps back = TransferMaps::read(folder_);
    EXPECT_EQ(back.kind, m.kind);
    EXPECT_EQ(back.hidden, 3);
    EXPECT_EQ(back.layers, 4);
    EXPECT_EQ(back.vocab, 9);
    EXPECT_EQ(back.model, m.model);
    EXPECT_EQ(back.enter, m.enter);
    EXPECT_EQ(back.acceptance, m.acceptance);
    ASSERT_EQ(back.maps.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(back.maps[i].weight, m.maps[i].weight);
      EXPECT_EQ(back.maps[i].bias, m.maps[i].bias);
    }
  }
  m.kind = TransferMaps::Kind::kMedusa;
  m.refined = m.see_previous = false;
  m.maps.resize(1);
  m.maps[0].bias.clear();
  m.acceptance.clear();
  m.write(folder_, true);
  const TransferMaps back = TransferMaps::read(folder_);
  EXPECT_EQ(back.kind, TransferMaps::Kind::kMedusa);
  EXPECT_FALSE(back.refined || back.see_previous);
  EXPECT_EQ(back.maps.size(), 1u);
  EXPECT_EQ(&back.map(0), &back.map(1));
  EXPECT_TRUE(back.maps[0].bias.empty() && back.acceptance.empty());
}

TEST_F(TransferMapsFile, WhatDoesNotFitIsNamed) {
  const TransferMaps m = small_maps();
  const auto says = [&](const char* key, const nlohmann::json& value, const char* what) {
    m.write(folder_, true);
    change(key, value);
    EXPECT_NE(refused().find(what), std::string::npos) << key << ": " << refused();
  };
  EXPECT_NE(refused(), "");  // no folder
  says("hidden", 4, "transfer.1.weight is 3 x 3, but config.json makes it 4 x 4");
  says("enter", {2, 3, 3}, "\"acceptance\" is no list");
  says("enter", {2, 5}, "\"enter\" holds \"5\"; give a whole number from 0 to 4");
  says("enter", nlohmann::json::array(), "\"enter\" is empty");
  says("enter", std::vector<int>(17, 1), "more layers than there can be maps");
  says("acceptance", {{1.5}}, "\"acceptance\" is no list");
  says("model", "12", "fingerprint");
  says("kind", "cubic", "kind");
  says("knd", 1, "knd");
  m.write(folder_, true);
  fs::remove(folder_ / "maps.safetensors");
  EXPECT_NE(refused().find("maps.safetensors"), std::string::npos);
  TransferMaps huge = m;
  huge.maps[1].weight[4] = 1e6f;
  EXPECT_THROW(huge.write(folder_, true), Error);
  huge.write(folder_, false);
  EXPECT_EQ(TransferMaps::read(folder_).maps[1].weight[4], 1e6f);
  for (const float beyond : {INFINITY, NAN, -1e38f}) {
    huge.maps[1].weight[4] = beyond;
    huge.write(folder_, false);
    EXPECT_NE(refused().find("not finite, or beyond 1e9"), std::string::npos) << beyond;
  }
}

}  // namespace
}  // namespace tutti::train

// Matrix products in bfloat16 while it lives, when asked for, on one kind of device.
#pragma once

#include <ATen/autocast_mode.h>

namespace tutti::train {

class Autocast {
 public:
  Autocast(bool on, at::Device device) : on_(on), type_(device.type()) {
    if (!on_) return;
    at::autocast::set_autocast_enabled(type_, true);
    at::autocast::set_autocast_dtype(type_, at::kBFloat16);  // CUDA's own is float16
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (!on_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(type_, false);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool on_;
  at::DeviceType type_;
};

}  // namespace tutti::train

#include "train/aten/device.h"

#include <ATen/Context.h>

#include "base/error.h"

namespace tutti::train {

at::Device training_device(const std::string& name) {
  const at::Device device(name);
  if (device.is_cpu()) return device;
  const auto count = int(at::getNumGPUs());
  if (count == 0) {
    throw Error(ErrorKind::kUsage,
                "device: is " + name +
                    ", but this torch sees no GPU; take \"cpu\", or install a torch "
                    "with CUDA and its driver");
  }
  const int index = device.has_index() ? device.index() : 0;
  if (index >= count) {
    throw Error(ErrorKind::kUsage, "device: is " + name + ", but there are only " +
                                       std::to_string(count) +
                                       " GPUs; the last is cuda:" + std::to_string(count - 1));
  }
  return at::Device(at::kCUDA, at::DeviceIndex(index));
}

}  // namespace tutti::train

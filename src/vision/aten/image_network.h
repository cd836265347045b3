// ImageNetwork over the ATen tower.
#pragma once

#include "vision/image_network.h"

namespace tutti::vision {

// Each picture goes through by itself, on one worker: its bits do not depend on the others of its
// batch, nor on the number of workers. They do depend on the machine: ATen's products take the
// kernels of its instruction set.
std::shared_ptr<ImageNetwork> make_image_network(const models::Checkpoint& checkpoint);

}  // namespace tutti::vision

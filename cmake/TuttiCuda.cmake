# The CUDA kernels: raw pointers and a stream, compiled by nvcc alone. They need no package but the CUDA toolkit, so
# that they build where there is a GPU and little else (make bundle-cuda).
enable_language(CUDA)
add_library(tutti_tensor_cuda STATIC src/tensor/cuda/marlin.cu)
# The same for programs that are not C++: bench/cuda/marlin.py loads it.
add_library(tutti_marlin SHARED src/tensor/cuda/marlin_c.cu)
target_link_libraries(tutti_marlin PRIVATE tutti_tensor_cuda)
foreach(target tutti_tensor_cuda tutti_marlin)
  set_target_properties(${target} PROPERTIES CUDA_STANDARD 17)
  target_include_directories(${target} PUBLIC src)
  # A kernel whose registers spill is a defect.
  target_compile_options(${target} PRIVATE -Werror=all-warnings -lineinfo "-Xptxas=-warn-spills,-Werror")
endforeach()

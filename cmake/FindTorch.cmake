# LibTorch of the pinned torch wheel, linked directly: the wheel's own find_package(Torch) stops on a CUDA
# wheel when no CUDA toolkit is installed, that is on most users' machines.
#   TUTTI_TORCH_ROOT  the wheel's torch/ folder; found in .venv or asked from python3 when not given
# Provides Torch::Torch; headers are SYSTEM.
if(NOT TUTTI_TORCH_ROOT)
  foreach(python "${CMAKE_SOURCE_DIR}/.venv/bin/python" python3)
    execute_process(
      COMMAND "${python}" -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE root OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed ERROR_QUIET)
    if(NOT failed AND root)
      set(TUTTI_TORCH_ROOT "${root}" CACHE PATH "The torch/ folder of the torch wheel" FORCE)
      break()
    endif()
  endforeach()
endif()
find_library(TORCH_CPU_LIBRARY torch_cpu PATHS "${TUTTI_TORCH_ROOT}/lib" NO_DEFAULT_PATH)
find_library(TORCH_C10_LIBRARY c10 PATHS "${TUTTI_TORCH_ROOT}/lib" NO_DEFAULT_PATH)
find_library(TORCH_CUDA_LIBRARY torch_cuda PATHS "${TUTTI_TORCH_ROOT}/lib" NO_DEFAULT_PATH)
find_library(TORCH_C10_CUDA_LIBRARY c10_cuda PATHS "${TUTTI_TORCH_ROOT}/lib" NO_DEFAULT_PATH)
find_path(TORCH_INCLUDE_DIR ATen/ATen.h PATHS "${TUTTI_TORCH_ROOT}/include" NO_DEFAULT_PATH)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Torch
  REQUIRED_VARS TORCH_CPU_LIBRARY TORCH_C10_LIBRARY TORCH_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "run 'make setup' (it installs the pinned torch wheel into .venv), or pass -DTUTTI_TORCH=OFF")
if(Torch_FOUND AND NOT TARGET Torch::Torch)
  add_library(Torch::Torch INTERFACE IMPORTED)
  target_include_directories(Torch::Torch SYSTEM INTERFACE
    "${TORCH_INCLUDE_DIR}" "${TORCH_INCLUDE_DIR}/torch/csrc/api/include")
  target_link_libraries(Torch::Torch INTERFACE ${TORCH_CPU_LIBRARY} ${TORCH_C10_LIBRARY})
  if(TORCH_CUDA_LIBRARY AND TORCH_C10_CUDA_LIBRARY)
    # as-needed would drop torch_cuda, which registers its kernels by being loaded
    target_link_libraries(Torch::Torch INTERFACE
      -Wl,--no-as-needed ${TORCH_CUDA_LIBRARY} ${TORCH_C10_CUDA_LIBRARY} -Wl,--as-needed)
  endif()
  set_property(TARGET Torch::Torch APPEND PROPERTY INTERFACE_LINK_OPTIONS "-Wl,-rpath,${TUTTI_TORCH_ROOT}/lib")
endif()

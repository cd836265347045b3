// The Warp of marlin_block.h on a GPU, and the launch.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "tensor/cuda/marlin.h"

namespace tutti::tensor::cuda {
namespace {

class GpuWarp {
 public:
  using Int = int;
  using Word = uint32_t;
  using Wide = int64_t;
  using Real = float;
  using Flag = bool;

  __device__ explicit GpuWarp(uint4* shared) : shared_(shared) {}

  __device__ int index() const { return threadIdx.x / 32; }
  __device__ Int lane() const { return threadIdx.x % 32; }
  __device__ Int thread() const { return threadIdx.x; }
  __device__ void sync() const { __syncthreads(); }

  // Sixteen bytes, asynchronously, where `inside`; zeros where not `read`.
  __device__ void copy(Int to, const void* from, Wide piece, Flag inside, Flag read) const {
    if (!inside) return;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(to)),
                 "l"(static_cast<const uint4*>(from) + (read ? piece : 0)), "r"(read ? 16 : 0));
  }
  // The same for what is read once: it is the first to leave the L2 cache.
  __device__ void copy_once(Int to, const void* from, Wide piece, Flag inside) const {
    if (!inside) return;
    asm volatile(
        "{\n"
        ".reg .b64 policy;\n"
        "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n"
        "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, policy;\n"
        "}" ::"r"(address(to)),
        "l"(static_cast<const uint4*>(from) + piece));
  }
  __device__ void commit() const { asm volatile("cp.async.commit_group;"); }
  template <int kPending>
  __device__ void wait() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
  }

  __device__ void load_matrices(Int from, Word (&to)[4]) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address(from))
                 : "memory");
  }
  __device__ void load(Int from, Word (&to)[4]) const { spread(shared_[from], to); }
  __device__ void load_global(const void* from, Wide piece, Word (&to)[4]) const {
    spread(static_cast<const uint4*>(from)[piece], to);
  }
  __device__ void store_real(Int place, Real x) const {
    reinterpret_cast<float*>(shared_)[place] = x;
  }
  __device__ Real load_real(Int place) const {
    return reinterpret_cast<const float*>(shared_)[place];
  }

  __device__ void multiply_add(Real (&c)[4], const Word (&a)[4], Word b0, Word b1) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  __device__ Word subtract_halfs(Word a, Word b) const { return word(__hsub2(halfs(a), halfs(b))); }
  __device__ Word multiply_halfs(Word a, Word b) const { return word(__hmul2(halfs(a), halfs(b))); }
  __device__ Word fma_halfs(Word a, Word b, Word c) const {
    return word(__hfma2(halfs(a), halfs(b), halfs(c)));
  }
  __device__ Real low_half(Word a) const { return __low2float(halfs(a)); }
  __device__ Real high_half(Word a) const { return __high2float(halfs(a)); }

  __device__ void add_sums(const float* sums, Wide place, Flag inside, Real& a, Real& b) const {
    if (!inside) return;
    // Another block wrote them: past the cache of this multiprocessor.
    const float2 two = __ldcg(reinterpret_cast<const float2*>(sums + place));
    a += two.x;
    b += two.y;
  }
  __device__ void store_sums(float* sums, Wide place, Flag inside, Real a, Real b) const {
    if (inside) __stcg(reinterpret_cast<float2*>(sums + place), make_float2(a, b));
  }
  __device__ void store_pair(void* c, Wide place, Flag inside, Real a, Real b) const {
    if (inside)
      *reinterpret_cast<__half2*>(static_cast<__half*>(c) + place) = __floats2half2_rn(a, b);
  }

  // Waits until the counter says that it is this block's turn; what the blocks before wrote is then
  // seen.
  __device__ void acquire(int* lock, int turn) const {
    if (threadIdx.x == 0) {
      int state = -1;
      do {
        asm volatile("ld.global.acquire.gpu.b32 %0, [%1];" : "=r"(state) : "l"(lock) : "memory");
      } while (state != turn);
    }
    __syncthreads();
  }
  __device__ void release(int* lock, int next) const {
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      asm volatile("st.global.release.gpu.b32 [%0], %1;" ::"l"(lock), "r"(next) : "memory");
    }
  }

 private:
  __device__ uint32_t address(Int piece) const {
    return uint32_t(__cvta_generic_to_shared(shared_ + piece));
  }
  __device__ static void spread(uint4 from, Word (&to)[4]) {
    to[0] = from.x;
    to[1] = from.y;
    to[2] = from.z;
    to[3] = from.w;
  }
  __device__ static __half2 halfs(Word w) { return *reinterpret_cast<__half2*>(&w); }
  __device__ static Word word(__half2 h) { return *reinterpret_cast<Word*>(&h); }

  uint4* shared_;
};

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) marlin_kernel(const MarlinProblem problem) {
  extern __shared__ uint4 shared[];
  GpuWarp warp(shared);
  MarlinBlock<Shape, GpuWarp>(warp, problem, blockIdx.x).run();
}

template <class Shape>
MarlinStatus launch(const MarlinProblem& problem, cudaStream_t stream) {
  const auto kernel = marlin_kernel<Shape>;
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kShared) !=
      cudaSuccess)
    return MarlinStatus::kDevice;
  kernel<<<problem.blocks, Shape::kThreads, Shape::kShared, stream>>>(problem);
  return cudaGetLastError() == cudaSuccess ? MarlinStatus::kOk : MarlinStatus::kDevice;
}

}  // namespace

MarlinStatus marlin_matmul(MarlinProblem problem, void* stream) {
  const auto at = static_cast<cudaStream_t>(stream);
  int device = 0, major = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&problem.blocks, cudaDevAttrMultiProcessorCount, device) !=
          cudaSuccess)
    return MarlinStatus::kDevice;
  if (problem.m < 1) return problem.m == 0 ? MarlinStatus::kOk : MarlinStatus::kShape;
  // Users report wrong results of the paper's (128, 128) tiles on Hopper; until ours are tested
  // there, they are not used there.
  const bool narrow = problem.m <= 16 && major < 9 && problem.n % 128 == 0 && problem.k % 128 == 0;
  const int group = problem.group;
  if (problem.k % 64 != 0 || problem.n % (narrow ? 128 : 256) != 0) return MarlinStatus::kShape;
  if (group != -1 && (group < 32 || problem.k % group != 0)) return MarlinStatus::kShape;
  if (group != -1 && group != 32 && group != 64 && group % 128 != 0) return MarlinStatus::kNoKernel;
  if (narrow) return launch<MarlinShape<1, 128, 128>>(problem, at);
  if (problem.m <= 16) return launch<MarlinShape<1, 64, 256>>(problem, at);
  if (problem.m <= 32) return launch<MarlinShape<2, 64, 256>>(problem, at);
  if (problem.m <= 48) return launch<MarlinShape<3, 64, 256>>(problem, at);
  return launch<MarlinShape<4, 64, 256>>(problem, at);
}

}  // namespace tutti::tensor::cuda

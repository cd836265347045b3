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

  __device__ GpuWarp(uint4* shared, int* before)
      : shared_(shared), before_(before), address_(uint32_t(__cvta_generic_to_shared(shared))) {
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once_));
  }

  __device__ int index() const { return threadIdx.x / 32; }
  __device__ Int lane() const { return threadIdx.x % 32; }
  __device__ Int thread() const { return threadIdx.x; }
  __device__ void sync() const { __syncthreads(); }

  // Sixteen bytes, asynchronously, where `inside`.
  __device__ void copy(Int to, const void* from, Int piece, Flag inside) const {
    if (!inside) return;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address(to)),
                 "l"(static_cast<const uint4*>(from) + piece)
                 : "memory");
  }
  // The same for what is read once: it is the first to leave the L2 cache.
  __device__ void copy_once(Int to, const void* from, Int piece) const {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(address(to)),
                 "l"(static_cast<const uint4*>(from) + piece), "l"(once_)
                 : "memory");
  }
  __device__ void commit() const { asm volatile("cp.async.commit_group;" ::: "memory"); }
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
  __device__ void load(Int from, Word (&to)[4]) const {
    const uint4 four = shared_[from];
    to[0] = four.x;
    to[1] = four.y;
    to[2] = four.z;
    to[3] = four.w;
  }
  __device__ Word load_word(const void* from, Int place) const {
    return static_cast<const Word*>(from)[place];
  }
  __device__ void store_reals(Int to, const Real (&x)[4]) const {
    reinterpret_cast<float4*>(shared_)[to] = make_float4(x[0], x[1], x[2], x[3]);
  }
  __device__ void add_reals(Int from, Real (&x)[4]) const {
    const float4 four = reinterpret_cast<const float4*>(shared_)[from];
    x[0] += four.x;
    x[1] += four.y;
    x[2] += four.z;
    x[3] += four.w;
  }

  __device__ void multiply_add(Real (&c)[4], const Word (&a)[4], Word b0, Word b1) const {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  // (q & mask) | bits: the compiler makes two instructions of it.
  __device__ Word masked(Word q, Word mask, Word bits) const {
    Word result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(q), "r"(mask), "r"(bits));
    return result;
  }
  // The half `h` of a pair, in both.
  __device__ Word twice(Word pair, int h) const {
    return __byte_perm(pair, 0, h == 0 ? 0x1010 : 0x3232);
  }
  __device__ Word subtract_halfs(Word a, Word b) const { return word(__hsub2(halfs(a), halfs(b))); }
  __device__ Word multiply_halfs(Word a, Word b) const { return word(__hmul2(halfs(a), halfs(b))); }
  __device__ Word fma_halfs(Word a, Word b, Word c) const {
    return word(__hfma2(halfs(a), halfs(b), halfs(c)));
  }
  __device__ Real low_half(Word a) const { return __low2float(halfs(a)); }
  __device__ Real high_half(Word a) const { return __high2float(halfs(a)); }

  // Zeros where not `inside`. Another block wrote them: past the cache of this multiprocessor.
  __device__ void load_sums(const float* sums, Wide piece, Flag inside, Real (&x)[4]) const {
    float4 four = make_float4(0, 0, 0, 0);
    if (inside) four = __ldcg(reinterpret_cast<const float4*>(sums) + piece);
    x[0] = four.x;
    x[1] = four.y;
    x[2] = four.z;
    x[3] = four.w;
  }
  __device__ void store_sums(float* sums, Wide piece, Flag inside, const Real (&x)[4]) const {
    if (inside)
      __stcg(reinterpret_cast<float4*>(sums) + piece, make_float4(x[0], x[1], x[2], x[3]));
  }
  __device__ void store_pair(void* c, Wide place, Flag inside, Real a, Real b) const {
    if (inside)
      *reinterpret_cast<__half2*>(static_cast<__half*>(c) + place) = __floats2half2_rn(a, b);
  }

  // How many blocks came to the counter before this one. What they wrote before is then seen: the
  // barrier hands every thread's writes to thread 0, whose addition releases them, and that of a
  // later block acquires them for its threads.
  __device__ int arrives(int* counter) const {
    __syncthreads();
    if (threadIdx.x == 0) {
      asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], 1;"
                   : "=r"(*before_)
                   : "l"(__cvta_generic_to_global(counter))
                   : "memory");
    }
    __syncthreads();
    return *before_;
  }
  // Waits until `count` blocks have come, and sees what they wrote before.
  __device__ void await(const int* counter, int count) const {
    if (threadIdx.x == 0) {
      int state = 0;
      do {
        asm volatile("ld.acquire.gpu.global.s32 %0, [%1];"
                     : "=r"(state)
                     : "l"(__cvta_generic_to_global(counter))
                     : "memory");
      } while (state < count);
    }
    __syncthreads();
  }
  // For the next launch, which starts after this block's end.
  __device__ void reset(int* counter) const {
    if (threadIdx.x == 0) *counter = 0;
  }

 private:
  __device__ uint32_t address(Int piece) const { return address_ + 16 * uint32_t(piece); }
  __device__ static __half2 halfs(Word w) { return *reinterpret_cast<__half2*>(&w); }
  __device__ static Word word(__half2 h) { return *reinterpret_cast<Word*>(&h); }

  uint4* shared_;
  int* before_;       // in shared memory: what arrives() hands to all threads
  uint32_t address_;  // of shared_, as instructions on shared memory take it
  uint64_t once_;     // the cache policy of what is read once
};

// Blocks of 16 rows leave registers for two on a multiprocessor.
template <class Shape>
inline constexpr int kResident = Shape::kRowBlocks == 1 ? 2 : 1;

template <class Shape, bool kGrouped>
__global__ void __launch_bounds__(Shape::kThreads, kResident<Shape>)
    marlin_kernel(const MarlinProblem problem) {
  extern __shared__ uint4 shared[];
  __shared__ int before;
  GpuWarp warp(shared, &before);
  MarlinBlock<Shape, GpuWarp, kGrouped> block(warp, problem, blockIdx.x);
  block.run();
  if (problem.adder == MarlinSums::kShared) block.settle();
}

// A launch whose blocks all run at the same time; kNoKernel where the GPU hasn't the room.
template <class Kernel>
MarlinStatus start_together(Kernel kernel, int threads, int shared, int multiprocessors,
                            MarlinProblem problem, cudaStream_t stream) {
  int resident = 0;
  if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, size_t(shared)) !=
      cudaSuccess)
    return MarlinStatus::kDevice;
  if (problem.blocks > resident * multiprocessors) return MarlinStatus::kNoKernel;
  void* arguments[] = {&problem};
  return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), dim3(problem.blocks),
                                     dim3(threads), arguments, size_t(shared),
                                     stream) == cudaSuccess
             ? MarlinStatus::kOk
             : MarlinStatus::kDevice;
}

template <class Shape, bool kGrouped>
MarlinStatus start(const MarlinProblem& problem, int multiprocessors, cudaStream_t stream) {
  const auto kernel = marlin_kernel<Shape, kGrouped>;
  // All of a multiprocessor's shared memory, so that kResident blocks have room at the same time.
  const auto set = [&](cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(kernel, attribute, value) == cudaSuccess;
  };
  if (!set(cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kShared) ||
      !set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared))
    return MarlinStatus::kDevice;
  if (problem.adder == MarlinSums::kShared)
    return start_together(kernel, Shape::kThreads, Shape::kShared, multiprocessors, problem,
                          stream);
  kernel<<<problem.blocks, Shape::kThreads, Shape::kShared, stream>>>(problem);
  return cudaGetLastError() == cudaSuccess ? MarlinStatus::kOk : MarlinStatus::kDevice;
}

constexpr int kMostBlocks = 32;  // on a multiprocessor at a time, of any kernel

struct Gpu {
  int multiprocessors = 0, shared = 0, block_shared = 0;  // shared memory in bytes
};

bool read_gpu(Gpu& gpu) {
  int device = 0;
  const auto attribute = [&](cudaDeviceAttr which, int& value) {
    return cudaDeviceGetAttribute(&value, which, device) == cudaSuccess;
  };
  return cudaGetDevice(&device) == cudaSuccess &&
         attribute(cudaDevAttrMultiProcessorCount, gpu.multiprocessors) &&
         attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, gpu.shared) &&
         attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, gpu.block_shared);
}

// What the kernel of one shape takes, and the launch where there is a stream to launch on.
class Launch {
 public:
  Launch(const MarlinProblem& problem, const MarlinOptions& options, const Gpu& gpu)
      : problem_(problem), options_(options), gpu_(gpu) {}

  // Calls act(Shape) with the shape for the problem and the options.
  template <class Act>
  MarlinStatus with_shape(const Act& act) const {
    const int m = problem_.m;
    const bool narrow = options_.tile == MarlinTile::kNarrow;
    if (problem_.k % (narrow ? 128 : 64) != 0 || problem_.n % (narrow ? 128 : 256) != 0)
      return MarlinStatus::kShape;
    if (narrow) return m <= 16 ? with_stages<1, 128, 128>(act) : MarlinStatus::kNoKernel;
    if (m <= 16) return with_stages<1, 64, 256>(act);
    if (m <= 32) return with_stages<2, 64, 256>(act);
    if (m <= 48) return with_stages<3, 64, 256>(act);
    return with_stages<4, 64, 256>(act);
  }

  template <class Shape>
  int blocks() const {
    int resident = gpu_.shared / (Shape::kShared + 1024);  // the driver takes 1 KiB of each block
    resident = resident < 1 ? 1 : resident > kResident<Shape> ? kResident<Shape> : resident;
    const int wanted = options_.blocks_per_multiprocessor;
    return gpu_.multiprocessors * (wanted > 0 ? wanted : resident);
  }

 private:
  template <int kRowBlocks, int kTileK, int kTileN, class Act>
  MarlinStatus with_stages(const Act& act) const {
    using Deep = MarlinShape<kRowBlocks, kTileK, kTileN, 8>;
    using Flat = MarlinShape<kRowBlocks, kTileK, kTileN, 4>;
    if (options_.stages != 0 && options_.stages != 4 && options_.stages != 8)
      return MarlinStatus::kNoKernel;
    const bool fits = Deep::kShared <= gpu_.block_shared;
    if (options_.stages == 8 && !fits) return MarlinStatus::kNoKernel;
    return options_.stages == 8 || (options_.stages == 0 && fits) ? act(Deep()) : act(Flat());
  }

  const MarlinProblem& problem_;
  const MarlinOptions& options_;
  const Gpu& gpu_;
};

MarlinStatus check(const MarlinProblem& problem, const MarlinOptions& options) {
  const int group = problem.group;
  if (problem.m < 0 || problem.n < 1 || problem.k < 1) return MarlinStatus::kShape;
  if (group != -1 && (group < 32 || problem.k % group != 0)) return MarlinStatus::kShape;
  if (group != -1 && group != 32 && group != 64 && group % 128 != 0) return MarlinStatus::kNoKernel;
  if (options.tile < MarlinTile::kAuto || options.tile > MarlinTile::kNarrow ||
      options.adder < MarlinSums::kAuto || options.adder > MarlinSums::kShared ||
      options.blocks_per_multiprocessor < 0 || options.blocks_per_multiprocessor > kMostBlocks)
    return MarlinStatus::kNoKernel;
  // Places of operands and numbers of tiles are ints in the kernel.
  const double m = problem.m, n = problem.n, k = problem.k, limit = 2147483647.0 / 2;
  if (m * k / 8 > limit || n * k / 32 > limit || m * n * k / (16 * 64 * 128) > limit)
    return MarlinStatus::kNoKernel;
  return MarlinStatus::kOk;
}

// As measured on an H200 (bench/results, marlin). To 16 rows a small matrix, of few tiles for each
// multiprocessor, wants one block with a deep pipeline, a large one two blocks; with more rows
// there is so much to add that each block takes a part.
MarlinOptions resolved(const MarlinProblem& problem, MarlinOptions options, const Gpu& gpu) {
  if (options.adder == MarlinSums::kAuto)
    options.adder = problem.m > 16 ? MarlinSums::kShared : MarlinSums::kLast;
  if (options.tile != MarlinTile::kAuto) return options;
  const bool narrow = problem.m <= 16 && problem.k % 128 == 0 && problem.n % 128 == 0;
  options.tile = narrow ? MarlinTile::kNarrow : MarlinTile::kWide;
  if (!narrow || options.blocks_per_multiprocessor != 0 || options.stages != 0) return options;
  const double tiles = double(problem.k / 128) * (problem.n / 128);
  const bool few = tiles < 16.0 * gpu.multiprocessors;
  options.blocks_per_multiprocessor = few ? 1 : 2;
  options.stages = few ? 0 : 4;
  return options;
}

// Calls act(problem, options, launch, gpu) with what a product takes on the current device, unless
// there is something against it or nothing to do.
template <class Act>
MarlinStatus with_launch(const MarlinProblem& given, const MarlinOptions& options, const Act& act) {
  const MarlinProblem problem = as_stored(given);
  Gpu gpu;
  if (!read_gpu(gpu)) return MarlinStatus::kDevice;
  if (const MarlinStatus bad = check(problem, options); bad != MarlinStatus::kOk) return bad;
  if (problem.m == 0) return MarlinStatus::kOk;
  const MarlinOptions chosen = resolved(problem, options, gpu);
  return act(problem, chosen, Launch(problem, chosen, gpu), gpu);
}

}  // namespace

MarlinStatus marlin_workspace(const MarlinProblem& given, const MarlinOptions& options,
                              MarlinWorkspace& workspace) {
  workspace = {};
  const auto measure = [&](const MarlinProblem& problem, const MarlinOptions&, const Launch& launch,
                           const Gpu&) {
    return launch.with_shape([&](auto shape) {
      using Shape = decltype(shape);
      workspace.sums = int64_t(2) * launch.blocks<Shape>() * Shape::kSlot * 4;
      workspace.locks =
          int64_t((problem.m + Shape::kRows - 1) / Shape::kRows) * (problem.n / Shape::kTileN);
      return MarlinStatus::kOk;
    });
  };
  return with_launch(given, options, measure);
}

MarlinStatus marlin_matmul(MarlinProblem given, void* stream, const MarlinOptions& options) {
  const auto multiply = [&](const MarlinProblem& problem, const MarlinOptions& chosen,
                            const Launch& launch, const Gpu& gpu) {
    const auto started = [&](MarlinSums adder) {
      return launch.with_shape([&](auto shape) {
        using Shape = decltype(shape);
        MarlinProblem one = problem;
        one.blocks = launch.blocks<Shape>();
        one.adder = adder;
        const auto on = static_cast<cudaStream_t>(stream);
        return one.group == -1 ? start<Shape, false>(one, gpu.multiprocessors, on)
                               : start<Shape, true>(one, gpu.multiprocessors, on);
      });
    };
    const MarlinStatus status = started(chosen.adder);
    // Blocks that cannot all run at the same time: the last one adds, to the same bits.
    const bool may_choose = options.adder == MarlinSums::kAuto && chosen.adder != MarlinSums::kLast;
    return status == MarlinStatus::kNoKernel && may_choose ? started(MarlinSums::kLast) : status;
  };
  return with_launch(given, options, multiply);
}

}  // namespace tutti::tensor::cuda

#include "tensor/kernels.h"

#include <cpuid.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "tensor/levels.h"

namespace tutti::tensor {
namespace {

// What the processor has and the operating system saves on a context switch.
struct Features {
  bool avx2 = false, avx512 = false;
};

Features detect() {
  Features r;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return r;
  const bool fma = c >> 12 & 1, osxsave = c >> 27 & 1, avx = c >> 28 & 1, f16c = c >> 29 & 1;
  if (!osxsave || !avx) return r;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const bool ymm_saved = (low & 0x06) == 0x06;  // xmm and upper halves of ymm
  const bool zmm_saved = (low & 0xe6) == 0xe6;  // and the mask registers, upper zmm, zmm16-31
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return r;
  r.avx2 = ymm_saved && fma && f16c && (b >> 5 & 1);
  const bool f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1;
  const bool vnni = c >> 11 & 1;
  r.avx512 = r.avx2 && zmm_saved && f && dq && bw && vl && vnni;
  return r;
}

std::string names(const std::vector<Isa>& isas) {
  std::string r;
  for (Isa isa : isas) r += (r.empty() ? "" : ", ") + std::string(name(isa));
  return r;
}

}  // namespace

std::string_view name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "?";
}

std::vector<Isa> available_isas() {
  static const Features features = detect();  // cpuid is slow under a hypervisor
  std::vector<Isa> r{Isa::kScalar};
  if (features.avx2) r.push_back(Isa::kAvx2);
  if (features.avx512) r.push_back(Isa::kAvx512);
  return r;
}

Isa choose_isa(std::string_view wanted) {
  const auto available = available_isas();
  if (wanted.empty()) return available.back();
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (name(isa) != wanted) continue;
    if (std::find(available.begin(), available.end(), isa) != available.end()) return isa;
    throw Error(ErrorKind::kUsage, "TUTTI_ISA: this machine cannot run '" + std::string(wanted) +
                                       "'; choose one of " + names(available));
  }
  throw Error(ErrorKind::kUsage, "TUTTI_ISA: '" + std::string(wanted) +
                                     "' is no instruction set; choose one of " + names(available));
}

const Kernels& kernels(Isa isa) {
  choose_isa(name(isa));  // throws when this machine cannot run it
  switch (isa) {
    case Isa::kAvx2: {
      static const Kernels table = avx2::make_kernels();
      return table;
    }
    case Isa::kAvx512: {
      static const Kernels table = avx512::make_kernels();
      return table;
    }
    case Isa::kScalar:
      break;
  }
  static const Kernels table = scalar::make_kernels();
  return table;
}

const Kernels& kernels() {
  static const Kernels& chosen = [&]() -> const Kernels& {
    const char* wanted = std::getenv("TUTTI_ISA");
    return kernels(choose_isa(wanted ? wanted : ""));
  }();
  return chosen;
}

}  // namespace tutti::tensor

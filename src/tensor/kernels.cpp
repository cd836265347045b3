#include "tensor/kernels.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "tensor/levels.h"

namespace tutti::tensor {
namespace {

// What the processor has and the operating system saves on a context switch.
struct Features {
  bool avx2 = false, avxvnni = false, avx512 = false, bf16 = false, amx = false;
};

struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
};
// All zero where the processor has no such leaf.
Leaf cpuid(unsigned leaf, unsigned subleaf) {
  Leaf r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}
bool bit(unsigned word, int i) { return word >> i & 1; }

// AMX: instructions, tiles of the size that tiles.h configures, state that the system saves, and
// its permission to use that state, which Linux gives a process (and its threads) that asks for it.
bool usable_amx(const Leaf& seven, unsigned saved) {
  constexpr unsigned kTileState = 0x60000;       // XCR0: configuration and data
  constexpr long kRequest = 0x1023, kData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  const bool tile = bit(seven.d, 24), int8 = bit(seven.d, 25);
  if (!tile || !int8 || (saved & kTileState) != kTileState) return false;
  const Leaf palette = cpuid(0x1d, 1);  // bytes of a row, tiles; rows of a tile
  if ((palette.b & 0xffffu) != 64 || palette.b >> 16 < 8 || (palette.c & 0xffffu) != 16)
    return false;
  return ::syscall(SYS_arch_prctl, kRequest, kData) == 0;
}

Features detect() {
  Features r;
  const Leaf one = cpuid(1, 0);
  const bool fma = bit(one.c, 12), osxsave = bit(one.c, 27), avx = bit(one.c, 28),
             f16c = bit(one.c, 29);
  if (!osxsave || !avx) return r;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const bool ymm_saved = (low & 0x06) == 0x06;  // xmm and upper halves of ymm
  const bool zmm_saved = (low & 0xe6) == 0xe6;  // and the mask registers, upper zmm, zmm16-31
  const Leaf seven = cpuid(7, 0), more = seven.a >= 1 ? cpuid(7, 1) : Leaf{};
  r.avx2 = ymm_saved && fma && f16c && bit(seven.b, 5);
  r.avxvnni = r.avx2 && bit(more.a, 4);
  const bool f = bit(seven.b, 16), dq = bit(seven.b, 17), bw = bit(seven.b, 30),
             vl = bit(seven.b, 31);
  const bool vnni = bit(seven.c, 11);
  r.avx512 = r.avx2 && zmm_saved && f && dq && bw && vl && vnni;
  r.bf16 = r.avx512 && bit(more.a, 5);
  r.amx = r.avx512 && usable_amx(seven, low);
  return r;
}

const Features& features() {
  static const Features found = detect();  // cpuid is slow under a hypervisor
  return found;
}

// The AVX-512 level, with VDPBF16PS where it is.
Kernels avx512_kernels() {
  Kernels k = avx512::make_kernels();
  if (features().bf16) k.matmul_bf16 = avx512bf16::matmul_bf16;
  return k;
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
    case Isa::kAvxVnni:
      return "avxvnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  return "?";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> r{Isa::kScalar};
  if (features().avx2) r.push_back(Isa::kAvx2);
  if (features().avxvnni) r.push_back(Isa::kAvxVnni);
  if (features().avx512) r.push_back(Isa::kAvx512);
  if (features().amx) r.push_back(Isa::kAmx);
  return r;
}

Isa choose_isa(std::string_view wanted) {
  const auto available = available_isas();
  if (wanted.empty()) return available.back();
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512, Isa::kAmx}) {
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
    case Isa::kAvxVnni: {
      static const Kernels table = avxvnni::make_kernels();
      return table;
    }
    case Isa::kAvx512: {
      static const Kernels table = avx512_kernels();
      return table;
    }
    case Isa::kAmx: {
      static const Kernels table = amx::make_kernels(avx512_kernels());
      return table;
    }
    case Isa::kScalar:
      break;
  }
  static const Kernels table = scalar::make_kernels();
  return table;
}

const AttendSteps& attend_steps(Isa isa) {
  // Every forward asks for them: whether this machine can run a level is looked up once.
  const auto checked = [isa](const AttendSteps& steps) {
    choose_isa(name(isa));
    return steps;
  };
  switch (isa) {
    case Isa::kAvx2: {
      static const AttendSteps steps = checked(avx2::make_attend_steps());
      return steps;
    }
    case Isa::kAvxVnni: {
      static const AttendSteps steps = checked(avx2::make_attend_steps());
      return steps;
    }
    case Isa::kAvx512: {
      static const AttendSteps steps = checked(avx512::make_attend_steps());
      return steps;
    }
    case Isa::kAmx: {
      static const AttendSteps steps = checked(avx512::make_attend_steps());
      return steps;
    }
    case Isa::kScalar:
      break;
  }
  static const AttendSteps steps = scalar::make_attend_steps();
  return steps;
}

const Kernels& kernels() {
  static const Kernels& chosen = [&]() -> const Kernels& {
    const char* wanted = std::getenv("TUTTI_ISA");
    return kernels(choose_isa(wanted ? wanted : ""));
  }();
  return chosen;
}

}  // namespace tutti::tensor

#include "cli/torch_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/error.h"

namespace tutti::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLibrary = "libtutti_torch.so";

void* open_library() {
  const fs::path here = fs::read_symlink("/proc/self/exe").parent_path();
  for (const fs::path& path : {here / kLibrary, here.parent_path() / "lib" / kLibrary}) {
    if (!fs::exists(path)) continue;
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    throw Error(ErrorKind::kSystem, path.string() + ": cannot be opened: " + dlerror());
  }
  throw Error(ErrorKind::kNotFound,
              std::string(kLibrary) + ": is not in " + here.string() +
                  "; build the target tutti_torch (it needs the pinned torch wheel: make setup)");
}

}  // namespace

void* torch_function(const char* name) {
  // OpenMP's threads spin by default while they wait: on a machine that also does other things, a
  // training step then takes three to twenty times as long. The runtime reads this once, when it is
  // loaded.
  setenv("OMP_WAIT_POLICY", "PASSIVE", 0);
  static void* const library = open_library();
  if (void* function = dlsym(library, name)) return function;
  throw Error(ErrorKind::kSystem, std::string(kLibrary) + ": has no function " + name +
                                      "; it is of another build than the program, build both");
}

}  // namespace tutti::cli

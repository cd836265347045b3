// The part of the program that uses libtorch, opened when a command needs it: libtorch takes a
// quarter of a second and a hundred megabytes, and `run`, `serve` and `bench` do without.
#pragma once

namespace tutti::cli {

// The function of that name in the library, which lies beside the program or in ../lib. It stays
// open. Throws Error(kNotFound | kSystem) saying where it was looked for.
void* torch_function(const char* name);

}  // namespace tutti::cli

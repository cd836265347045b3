// The MARLIN product for callers that are not C++ (bench/cuda/marlin.py): the functions of
// marlin.h, with numbers for statuses, tiles and options. Pointers are device memory, `stream` a
// cudaStream_t.
#pragma once

#include <cstdint>

extern "C" {

// Floats and ints that marlin_matmul needs besides the operands; both are 0 where the status is not
// 0.
int tutti_marlin_workspace(int m, int n, int k, int group, int tile, int blocks_per_multiprocessor,
                           int stages, int adder, int64_t* sums, int64_t* locks);

int tutti_marlin_matmul(const void* a, const void* words, const void* scales, void* c, float* sums,
                        int* locks, int m, int n, int k, int group, int tile,
                        int blocks_per_multiprocessor, int stages, int adder, void* stream);
}

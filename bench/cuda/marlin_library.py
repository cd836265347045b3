"""The MARLIN kernel's library (src/tensor/cuda/marlin_c.h) for torch tensors: built by nvcc, called through ctypes."""

import ctypes
import pathlib
import shutil
import subprocess
from typing import NamedTuple

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ["src/tensor/cuda/marlin.cu", "src/tensor/cuda/marlin_c.cu"]
OK, SHAPE, NO_KERNEL, DEVICE = range(4)  # MarlinStatus
AUTO, WIDE, NARROW = range(3)            # MarlinTile
ADDERS = ("auto", "last", "shared")      # MarlinSums
LAST, SHARED = 1, 2
TILES = {AUTO: "auto", WIDE: "64x256", NARROW: "128x128"}


class Options(NamedTuple):
    """MarlinOptions: 0 is the kernel's own choice."""
    tile: int = AUTO
    blocks: int = 0
    stages: int = 0
    adder: int = 0

    def __str__(self):
        return f"{TILES[self.tile]}, {self.blocks or 'auto'} blocks, {self.stages or 'auto'} stages, {ADDERS[self.adder]}"


class Weights(NamedTuple):
    k: int
    n: int
    group: int
    words: torch.Tensor   # int32 [k / 16][2 n]
    scales: torch.Tensor  # float16 [k / group or 1][n], permuted


def build(folder, architecture):
    """Compiles the library for one architecture ("90"); refuses a kernel whose registers spill."""
    library = pathlib.Path(folder) / "libtutti_marlin.so"
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    command = [nvcc, "-std=c++17", "-O3", f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-lineinfo",
               "-Werror=all-warnings", "-Xptxas=-warn-spills,-Werror", "-Isrc", "-Xcompiler=-fPIC", "-shared",
               "-cudart=static", "-o", str(library), *SOURCES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return library


class Marlin:
    """The functions of the library, for tensors of one device."""

    def __init__(self, path, device):
        self.device = torch.device(device)
        self.library = ctypes.CDLL(str(path))
        pointer, number = ctypes.c_void_p, ctypes.c_int
        counts = [ctypes.POINTER(ctypes.c_int64)] * 2
        self.library.tutti_marlin_workspace.argtypes = [number] * 8 + counts
        self.library.tutti_marlin_matmul.argtypes = [pointer] * 6 + [number] * 8 + [pointer]

    def workspace(self, m, n, k, group, options=Options()):
        """The status, floats for sums and ints for locks."""
        sums, locks = ctypes.c_int64(), ctypes.c_int64()
        status = self.library.tutti_marlin_workspace(m, n, k, group, *options, ctypes.byref(sums), ctypes.byref(locks))
        return status, sums.value, locks.value

    def make_workspace(self, m, weights, options=Options(), spare=0):
        """Sums (NaN) and locks (zero) for a product, with `spare` more floats behind."""
        status, sums, locks = self.workspace(m, weights.n, weights.k, weights.group, options)
        if status != OK:
            raise ValueError(f"no workspace for {m} x {weights.k} x {weights.n}, group {weights.group}, {options}: "
                             f"status {status}")
        return (torch.full((sums + spare,), float("nan"), dtype=torch.float32, device=self.device),
                torch.zeros(locks, dtype=torch.int32, device=self.device))

    def matmul(self, a, weights, c, sums, locks, options=Options(), m=None):
        """Starts c = a B on the current stream; the status."""
        stream = torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else None
        return self.library.tutti_marlin_matmul(
            a.data_ptr(), weights.words.data_ptr(), weights.scales.data_ptr(), c.data_ptr(), sums.data_ptr(),
            locks.data_ptr(), a.shape[0] if m is None else m, weights.n, weights.k, weights.group, *options, stream)

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

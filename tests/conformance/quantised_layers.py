"""Layers of GPTQ, AWQ, compressed-tensors, MARLIN and Sparse-MARLIN, packed from their published layouts by numpy alone: for
the readers' test and for the CUDA kernel's (bench/cuda/marlin.py)."""

import numpy as np
import torch


class Layer:
    """A random grid: codes [in, out], zeros and half scales [groups, out], the group of each input."""

    def __init__(self, w, bits, group, rng, *, zeros=None, order=False, sparse=False):
        out, self.inputs = w.shape
        self.outputs, self.bits, self.group = out, bits, group
        count = -(-self.inputs // group)
        self.groups = np.arange(self.inputs) // group
        if order:
            self.groups = rng.permutation(self.groups)
        wide = 2 ** bits
        self.zeros = rng.integers(1, zeros + 1, (count, out)) if zeros else np.full((count, out), wide // 2)
        size = np.abs(w).max() / (wide / 2)
        self.scales = (size * rng.uniform(0.5, 1.0, (count, out))).astype(np.float16)
        w = w.T.astype(np.float64)
        if sparse:  # the two smallest of four inputs go
            four = w.reshape(-1, 4, out)
            keep = np.argsort(np.argsort(-np.abs(four), axis=1), axis=1) < 2
            w = np.where(keep, four, 0).reshape(w.shape)
        steps = np.round(w / self.scales[self.groups].astype(np.float64))
        self.codes = np.clip(steps + self.zeros[self.groups], 0, wide - 1).astype(np.int64)

    def weight(self):
        values = (self.codes - self.zeros[self.groups]) * self.scales[self.groups].astype(np.float64)
        assert np.array_equal(values, values.astype(np.float32))
        return torch.from_numpy(values.T.astype(np.float32).copy())


def packed(values, axis, bits, order=None):
    """int32 words of 32 / bits neighbours along `axis`, the first in the lowest bits (or in `order`)."""
    n = 32 // bits
    values = np.moveaxis(values, axis, -1)
    values = np.pad(values, [(0, 0), (0, -values.shape[-1] % n)])
    fields = values.reshape(*values.shape[:-1], -1, n).astype(np.uint64)
    words = np.zeros(fields.shape[:-1], np.uint64)
    for place in range(n):
        words |= fields[..., place if order is None else order[place]] << np.uint64(bits * place)
    return torch.from_numpy(np.moveaxis(words, -1, axis).astype(np.uint32).view(np.int32).copy())


def halfs(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def gptq(layer, less=1):
    return {"qweight": packed(layer.codes, 0, layer.bits), "qzeros": packed(layer.zeros - less, 1, layer.bits),
            "scales": halfs(layer.scales), "g_idx": torch.from_numpy(layer.groups.astype(np.int32))}


def gptq_v2(layer):
    return gptq(layer, less=0)


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def awq(layer):
    return {"qweight": packed(layer.codes, 1, 4, AWQ_ORDER), "qzeros": packed(layer.zeros, 1, 4, AWQ_ORDER),
            "scales": halfs(layer.scales)}


def compressed_tensors(layer):
    tensors = {"weight_packed": packed(layer.codes.T, 1, layer.bits), "weight_scale": halfs(layer.scales.T),
               "weight_shape": torch.tensor([layer.outputs, layer.inputs])}
    if (layer.zeros != 2 ** (layer.bits - 1)).any():
        tensors["weight_zero_point"] = packed(layer.zeros.T, 0, layer.bits)
    if (np.diff(layer.groups) < 0).any():
        tensors["weight_g_idx"] = torch.from_numpy(layer.groups.astype(np.int32))
    return tensors


def marlin_words(codes, sparse):
    """The reference's own steps: tiles, permutation of 1,024, eight to a word."""
    order = []
    for i in range(32):
        eight, column = [], i // 4
        for block in (0, 1):
            for row in (2 * (i % 4), 2 * (i % 4) + 1, 2 * (i % 4 + 4), 2 * (i % 4 + 4) + 1):
                eight.append(16 * row + (column // 2 * 256 + 8 * (column % 2) + 4 * block if sparse
                                         else column + 8 * block))
        for j in range(4):
            order.extend(p + (j if sparse else 256 * j) for p in eight)
    order = np.array(order).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].ravel()
    k, n = codes.shape
    tiles = codes.reshape(k // 16, 16, n // 16, 16).transpose(0, 2, 1, 3).reshape(k // 16, n * 16)
    return packed(tiles.reshape(-1, 1024)[:, order].reshape(tiles.shape), 1, 4)


def permuted_scales(layer, by):
    return halfs(layer.scales.reshape(-1, len(by))[:, by].reshape(layer.scales.shape))


def marlin_scales(layer):
    if layer.group >= layer.inputs:
        by = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
    else:
        by = [i + 8 * j for i in range(8) for j in range(8)]
    return permuted_scales(layer, by)


def marlin(layer):
    return {"B": marlin_words(layer.codes, False), "s": marlin_scales(layer),
            "workspace": torch.zeros(layer.outputs // 128 * 16, dtype=torch.int32)}


def sparse_marlin(layer):
    k, n = layer.codes.shape
    four = layer.codes.T.reshape(n, k // 4, 4)
    kept = np.argsort(four == 8, axis=2, kind="stable")[:, :, :2]  # non-zeros first, in their order
    kept = np.sort(kept, axis=2)
    values = np.take_along_axis(four, kept, 2).reshape(n, k // 2).T
    quads = (kept[..., 0] | kept[..., 1] << 2).reshape(n, k // 16, 4)
    meta = (quads[..., 0] | quads[..., 1] << 4 | quads[..., 2] << 8 | quads[..., 3] << 12).astype(np.uint16)
    rows, columns = np.indices(meta.shape)
    rows = rows // 64 * 64 + rows % 2 * 2 + rows % 8 // 4 + rows % 32 % 4 // 2 * 32 + rows % 64 // 8 * 4
    shift = ((rows % 2 == 0) & (columns % 2 == 1)).astype(int) - ((rows % 2 == 1) & (columns % 2 == 0))
    rows, columns = rows + shift, columns - shift
    scattered = np.zeros(meta.size, np.uint16)
    scattered[(columns // 2 * n * 2 + rows * 2 + columns % 2).ravel()] = meta.ravel()
    by = list(range(8)) if layer.group >= layer.inputs else [0, 4, 1, 5, 2, 6, 3, 7]
    return {"B_24": marlin_words(values, True), "s": permuted_scales(layer, by),
            "B_meta": torch.from_numpy(scattered.view(np.int16).reshape(k // 32, 2 * n)),
            "workspace": torch.zeros(64, dtype=torch.int32)}

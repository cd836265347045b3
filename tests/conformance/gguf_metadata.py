"""Reads the header of a GGUF file with nothing but struct: independent of our reader, and quick."""
import struct

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
HEADER_LIMIT = 64 << 20  # the metadata of the vocabularies at hand is shorter than this


def read_metadata(path):
    return read_header(path)[0]


def read_header(path):
    """The metadata, and of every tensor (name, dims, number of its type)."""
    with open(path, "rb") as file:
        data = file.read(HEADER_LIMIT)
    at = 24

    def take(form):
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values

    def text():
        nonlocal at
        (length,) = take("Q")
        at += length
        return data[at - length : at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind != 9:
            return take(SCALARS[kind])[0]
        element, count = take("IQ")
        if element in SCALARS:
            return list(take("%d%s" % (count, SCALARS[element])))
        return [value(element) for _ in range(count)]

    assert data[:4] == b"GGUF", path
    result = {}
    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        key = text()
        (kind,) = take("I")
        result[key] = value(kind)
    tensors = []
    for _ in range(struct.unpack_from("<Q", data, 8)[0]):
        name = text()
        (dims,) = take("I")
        shape = list(take("%dQ" % dims))
        kind, _offset = take("IQ")
        tensors.append((name, shape, kind))
    return result, tensors

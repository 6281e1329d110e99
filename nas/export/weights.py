"""Reads safetensors files with torch alone; exported models carry a copy of it."""

import json
from math import prod
from os import PathLike

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


def read_safetensors(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Reads all tensors of a safetensors file; nothing in it is executed.

    Args:
        path: The file.

    Raises:
        ValueError: It is no such file, or it is damaged.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        content = memoryview(file.read())
    # 8 bytes: the header's length N, little-endian; N bytes: the header, JSON; then the data.
    start = 8 + int.from_bytes(content[:8], "little")
    data = content[start:]
    tensors = {}
    try:
        if not 8 < start <= len(content):
            raise ValueError("no header")
        header = json.loads(bytes(content[8:start]))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype, shape, (begin, end) = (
                DTYPES[entry["dtype"]],
                entry["shape"],
                entry["data_offsets"],
            )
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise ValueError(f"{name} has no shape or place")
            if end > len(data) or end - begin != prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} does not fill its place in the file")
            values = bytearray(data[begin:end])
            empty = torch.empty(shape, dtype=dtype)
            tensors[name] = torch.frombuffer(values, dtype=dtype).view(shape) if values else empty
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no safetensors file, or it is damaged: {error!r}") from None
    return tensors

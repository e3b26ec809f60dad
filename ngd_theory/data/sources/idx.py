"""The IDX format of MNIST and Fashion-MNIST."""

import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ngd_theory.data.errors import DataError
from ngd_theory.data.sources.bytes_files import read_bytes

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, num_dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Return the array of an IDX file of unsigned bytes, plain or gzip-compressed.

    Parameters
    ----------
    path : path
    num_dimensions : int
        Expected number of dimensions: 3 for images, 1 for labels.

    Raises
    ------
    DataError
        If the magic number, or the number of bytes, is wrong.
    """
    content = read_bytes(path)
    header = 4 + 4 * num_dimensions
    expected = bytes((0, 0, _UNSIGNED_BYTE, num_dimensions))
    if content[:4] != expected:
        raise DataError(
            f"{path} starts with 0x{content[:4].hex()} where an IDX file of {num_dimensions}-"
            f"dimensional bytes has 0x{expected.hex()}; fetch it again or check its name"
        )
    if len(content) < header:
        raise DataError(f"{path} ends within its header; fetch it again")
    shape = struct.unpack(f">{num_dimensions}I", content[4:header])
    size = int(np.prod(shape, dtype=object))
    if len(content) - header != size:
        raise DataError(
            f"{path} holds {len(content) - header} bytes of data where its header says {size}; "
            "fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)

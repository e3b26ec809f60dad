"""Reading a whole file, gzip-compressed or not."""

import gzip
import zlib
from pathlib import Path

from ngd_theory.data.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """Return the content of ``path``, decompressed where it is a gzip file.

    Raises
    ------
    DataError
        If the file cannot be read or its compressed stream is damaged.
    """
    try:
        content = path.read_bytes()
        # Some mirrors serve the .gz files already decompressed, so the name is not trusted.
        return gzip.decompress(content) if content[:2] == _GZIP_MAGIC else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the file") from error

"""`.npz` archives from anywhere: what an array claims is held against the file before memory is taken for it."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rewindctl.errors import DataError

ARRAYS = ("x_train", "y_train", "x_test", "y_test", "class_names")  # whatever else is there is not read
KINDS = "biufU"  # numbers and text; an object would have to be unpickled
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # NumPy's own; others unpack without bound
LARGEST_DATA = 16 << 30  # bytes of all arrays
HARMLESS_DATA = 256 << 20  # bytes that an archive may hold however small it is itself
MOST_PACKED = 50  # times; images are packed by less than 10, a bomb by 1,000
LONGEST_HEADER, LONGEST_TEXT, MOST_DIMENSIONS = 10_000, 4_000, 4


def read_npz(path: Path) -> dict[str, Any]:
    """The arrays of a data set in an archive, nothing unpickled. Raises: DataError when it is damaged or hostile."""
    try:
        if not path.is_file():
            raise ValueError("no such file")
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {key: members[key] for key in ARRAYS if key in members}
            _check_sizes(list(wanted.values()))
            return {key: _array(archive, info) for key, info in wanted.items()}
    except Exception as error:  # a flipped bit makes zipfile and NumPy raise nearly anything
        raise DataError(f"{path} is not a readable .npz archive: {str(error)[:300]}", "get the file again") from None


def check_amount(size: int, what: str) -> None:
    """Raises: DataError when the arrays of a data set would need `size` bytes, more than any of ours."""
    if size > LARGEST_DATA:
        raise DataError(f"{what} needs {size:,} bytes", f"at most {LARGEST_DATA:,} are read: take fewer images")


def _check_sizes(members: list[zipfile.ZipInfo]) -> None:
    size, packed = sum(info.file_size for info in members), sum(info.compress_size for info in members)
    if size > LARGEST_DATA:
        raise ValueError(f"it claims {size:,} bytes, more than {LARGEST_DATA:,}")
    if size > HARMLESS_DATA and size > MOST_PACKED * packed:
        raise ValueError(f"it claims {size:,} bytes in {packed:,}: no images compress so well")
    if other := [info.filename for info in members if info.compress_type not in PACKINGS]:
        raise ValueError(f"{other[0]!r:.80} is packed in a way that NumPy never uses")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with archive.open(info) as member:
        _check_header(member, info)
    with archive.open(info) as member:
        array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):  # the end, where the checksum is looked at
            raise ValueError(f"{info.filename!r:.80} has extra bytes after its array")
    return array


def _check_header(member: Any, info: zipfile.ZipInfo) -> None:
    """The array fills the rest of the member exactly."""
    start = member.read(12)
    if start[:6] != b"\x93NUMPY" or start[6:8] not in (b"\x01\x00", b"\x02\x00"):
        raise ValueError(f"{info.filename!r:.80} is not an array")
    long = start[6] == 2
    length = struct.unpack_from("<I" if long else "<H", start, 8)[0]
    if length > LONGEST_HEADER:
        raise ValueError(f"{info.filename!r:.80} has a header of {length:,} bytes")
    member.seek(8)
    read = np.lib.format.read_array_header_2_0 if long else np.lib.format.read_array_header_1_0
    shape, _, dtype = read(member)
    if dtype.kind not in KINDS or dtype.itemsize > LONGEST_TEXT:
        raise ValueError(f"{info.filename!r:.80} is of {str(dtype)[:80]}")
    if len(shape) > MOST_DIMENSIONS or not all(0 <= count < 2**48 for count in shape):
        raise ValueError(f"{info.filename!r:.80} has the shape {str(shape)[:80]}")
    size = dtype.itemsize
    for count in shape:
        size *= count
    if size != info.file_size - member.tell():
        raise ValueError(f"{info.filename!r:.80} claims {size:,} bytes and has {info.file_size - member.tell():,}")

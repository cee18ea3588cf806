"""The file format: a plain tar whose every byte follows from its index, whole or cut into parts.

First comes `index-<SHA-256>.json`, then each file that the index lists, in its order, as `files/<SHA-256>`. Names,
sizes, modes and padding leave nothing to choose, so a reader works out each header and compares: links, devices,
absolute paths, doubled, missing and extra members are all the same thing, another byte. Nothing is compressed, so no
member can hold more than the file has.
"""

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from rewindctl.errors import IntegrityError, UsageError
from rewindctl.registry.bundle.index import HINT, Index, check_manifests, check_runs, parse_index
from rewindctl.registry.runs.manifest import File, Manifest
from rewindctl.system.files import replacing

BLOCK = 512
END = bytes(2 * BLOCK)
CHUNK = 1 << 20
MOST_INDEX_BYTES = 128 << 20  # some 3,000 runs with 600 metric values each; parsed it takes ten times as much memory
MOST_PARTS = 9_999
PART = re.compile(r"(.+)\.([0-9]{3,4})")
INDEX = re.compile(rb"index-([0-9a-f]{64})\.json")


def header(name: str, size: int) -> bytes:
    """The tar header of a regular file: mode 644, owner and time 0."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


def archive_size(index_bytes: int, files: Iterable[File]) -> int:
    """Bytes of the whole bundle."""
    return sum(BLOCK + size + _padding(size) for size in (index_bytes, *(file.size for file in files))) + len(END)


def _padding(size: int) -> int:
    return -size % BLOCK


def part_path(bundle: Path, number: int) -> Path:
    """BUNDLE.001, BUNDLE.002, ..."""
    return bundle.with_name(f"{bundle.name}.{number:03d}")


def parts_of(bundle: Path) -> dict[int, Path]:
    """The parts of a bundle that are there, by number."""
    if not bundle.parent.is_dir():
        return {}
    names = ((PART.fullmatch(path.name), path) for path in bundle.parent.iterdir())
    found = {int(match[2]): path for match, path in names if match and match[1] == bundle.name and path.is_file()}
    return dict(sorted(found.items()))


def write_archive(bundle: Path, index: bytes, files: Sequence[tuple[File, Path]], part_bytes: int | None) -> list[Path]:
    """Write the bundle, or its parts of `part_bytes` (the last may be shorter): all are there in the end or none.

    Raises: UsageError for too many parts, IntegrityError when a file changed meanwhile, OSError.
    """
    total = archive_size(len(index), (file for file, _ in files))
    count = 1 if part_bytes is None else -(-total // part_bytes)
    if count > MOST_PARTS:
        raise UsageError(f"{total:,} bytes make {count:,} parts, more than {MOST_PARTS:,}", "give a larger --max-size")
    paths = [bundle] if part_bytes is None else [part_path(bundle, number) for number in range(1, count + 1)]
    with ExitStack() as stack:
        temporaries = [stack.enter_context(replacing(path)) for path in paths]
        _fill(temporaries, part_bytes or total, _content(index, files))
    return paths


def _fill(parts: list[Path], part_bytes: int, chunks: Iterator[bytes]) -> None:
    rest = b""
    for path in parts:
        room = part_bytes
        with path.open("wb") as file:
            while room and (chunk := rest or next(chunks, b"")):
                written = file.write(chunk[:room])
                room, rest = room - written, chunk[written:]


def _content(index: bytes, files: Iterable[tuple[File, Path]]) -> Iterator[bytes]:
    yield header(f"index-{hashlib.sha256(index).hexdigest()}.json", len(index))
    yield index + bytes(_padding(len(index)))
    for file, path in files:
        yield header(f"files/{file.sha256}", file.size)
        digest = hashlib.sha256()
        with path.open("rb") as source:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != file.sha256:
            raise IntegrityError(f"{path} changed while it was exported", "export again")
        yield bytes(_padding(file.size))
    yield END


def find_parts(given: Sequence[Path]) -> list[Path]:
    """The files of a bundle in order, from its path, any one of its parts, or all of them.

    Raises: UsageError when there is no such file, IntegrityError when a part is missing.
    """
    if len(given) == 1:
        return _from_one(given[0])
    found: dict[int, Path] = {}
    for path in given:
        match = PART.fullmatch(path.name)
        if match is None or not path.is_file():
            raise UsageError(f"{path} is not a part of a bundle", "give one bundle, or the parts of one")
        found[int(match[2])] = path
    if len(found) < len(given) or len({_whole(path) for path in given}) > 1:
        raise UsageError(f"{given[-1]} and {given[0]} are not parts of one bundle", "give one bundle, or its parts")
    return _without_gap(dict(sorted(found.items())))


def _from_one(path: Path) -> list[Path]:
    part = PART.fullmatch(path.name)
    if part is None and path.exists():
        if not path.is_file():
            raise UsageError(f"{path} is not a file", "give the file that registry export wrote")
        return [path]
    found = parts_of(_whole(path))
    if not found or (part and not path.is_file()):
        raise UsageError(f"{path} does not exist", "give the file that registry export wrote")
    return _without_gap(found)


def _whole(part: Path) -> Path:
    """The path of a bundle, from that of a part."""
    match = PART.fullmatch(part.name)
    return part.with_name(match[1]) if match else part


def _without_gap(found: dict[int, Path]) -> list[Path]:
    for number in range(1, max(found) + 1):
        if number not in found:
            missing = part_path(_whole(next(iter(found.values()))), number)
            raise IntegrityError(f"{missing} is missing: the bundle is not whole", HINT)
    return list(found.values())


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was verified; `folder` has its files, named by their digests."""

    digest: str
    index: Index
    manifests: dict[str, Manifest]
    folder: Path


def read_bundle(given: Sequence[Path], folder: Path) -> Bundle:
    """Verify a bundle and unpack it to `folder`. Raises: UsageError, IntegrityError, OSError."""
    paths = find_parts(given)
    where = str(paths[0])
    with closing(Source(paths)) as source:
        digest, data = _read_index(source)
        index = parse_index(data, where)
        check_sizes(source, len(data), index.files, index.part_bytes)
        check_runs(index, where)
        extract(source, index.files, folder)
    manifests = check_manifests(index, lambda digest: (folder / digest).read_bytes(), where)
    return Bundle(digest, index, manifests, folder)


class Source:
    """The bytes of a bundle, across its parts, read once from start to end."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.sizes = [path.stat().st_size for path in paths]
        self.total = sum(self.sizes)
        self._next = iter(self.paths)
        self._open_next()

    def _open_next(self) -> None:
        self.where = next(self._next)  # the part that is being read
        self._file = self.where.open("rb")

    def close(self) -> None:
        self._file.close()

    def too_short(self) -> IntegrityError:
        return IntegrityError(f"{self.paths[-1]} ends too early: it is cut short, or a part is missing", HINT)

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises: IntegrityError when fewer are left."""
        data = self._file.read(count)
        while len(data) < count:
            if self.where == self.paths[-1]:
                raise self.too_short()
            self.close()
            self._open_next()
            data += self._file.read(count - len(data))
        return data


def _read_index(source: Source) -> tuple[str, bytes]:
    """The SHA-256 of the index, which is the bundle's identity, and its bytes. Raises: IntegrityError."""
    head = source.read(BLOCK) if source.total >= BLOCK else b""
    name, digits = head[:100].rstrip(b"\0"), head[124:135]
    match = INDEX.fullmatch(name)
    size = int(digits, 8) if re.fullmatch(rb"[0-7]{11}", digits) else -1
    if match is None or size < 0 or head != header(name.decode(), size):
        raise IntegrityError(f"{source.where} is not a bundle of rewindctl: it does not start with an index", HINT)
    if size > MOST_INDEX_BYTES:
        raise IntegrityError(
            f"{source.where}: {name.decode()} claims {size:,} bytes, more than an index can have", HINT
        )
    if size > source.total:
        raise source.too_short()
    data = source.read(size)
    if hashlib.sha256(data).hexdigest() != match[1].decode():
        raise IntegrityError(
            f"{source.where}: {name.decode()} is damaged: its bytes do not match the digest in its name", HINT
        )
    _expect_zeros(source, _padding(size), name.decode())
    return match[1].decode(), data


def check_sizes(source: Source, index_bytes: int, files: Sequence[File], part_bytes: int | None) -> None:
    """The files are as long as the index makes them. Raises: IntegrityError, before anything else is read."""
    total = archive_size(index_bytes, files)
    if len(source.paths) > 1 and part_bytes is None:
        raise IntegrityError(f"{source.paths[1]} is not a part of this bundle, which was written as one file", HINT)
    if len(source.paths) > 1 or PART.fullmatch(source.paths[0].name):
        _check_parts(source, total, part_bytes or total)
    if source.total != total:
        raise IntegrityError(
            f"{source.paths[-1]}: the bundle has {source.total:,} bytes, its index says {total:,}", HINT
        )


def _check_parts(source: Source, total: int, part_bytes: int) -> None:
    count = -(-total // part_bytes)
    if len(source.paths) < count:
        missing = part_path(_whole(source.paths[0]), len(source.paths) + 1)
        raise IntegrityError(f"{missing} is missing: the bundle has {count:,} parts", HINT)
    for number, (path, size) in enumerate(zip(source.paths, source.sizes, strict=True), start=1):
        wanted = max(0, min(part_bytes, total - (number - 1) * part_bytes))
        if size != wanted or not wanted:
            raise IntegrityError(f"{path} has {size:,} bytes, part {number} of this bundle has {wanted:,}", HINT)


def extract(source: Source, files: Sequence[File], folder: Path) -> None:
    """Write each file as `folder/<SHA-256>`, its bytes verified. Raises: IntegrityError, OSError."""
    for file in files:
        name = f"files/{file.sha256}"
        head = source.read(BLOCK)
        if head != header(name, file.size):
            found = head[:100].split(b"\0")[0].decode("ascii", "backslashreplace")
            raise IntegrityError(f"{source.where}: member {found!r} was found in the place of {name}", HINT)
        _copy(source, file, folder / file.sha256)
        _expect_zeros(source, _padding(file.size), name)
    _expect_zeros(source, len(END), "the end")


def _copy(source: Source, file: File, path: Path) -> None:
    digest, left = hashlib.sha256(), file.size
    with path.open("xb") as target:
        while left:
            chunk = source.read(min(left, CHUNK))
            digest.update(chunk)
            target.write(chunk)
            left -= len(chunk)
    if digest.hexdigest() != file.sha256:
        raise IntegrityError(
            f"{source.where}: files/{file.sha256} is damaged: its bytes do not match the digest in its name", HINT
        )


def _expect_zeros(source: Source, count: int, after: str) -> None:
    if any(source.read(count)):
        raise IntegrityError(f"{source.where}: there are extra bytes after {after}", HINT)

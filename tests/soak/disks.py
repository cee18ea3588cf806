"""Disks of any size: small file systems in memory, mounted in a namespace of this process alone."""

import ctypes
import os
from pathlib import Path

MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE, MNT_DETACH = 1, 32, 16_384, 1 << 18, 2
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
PAGE = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> str:
    """Have mounts of our own from now on; why not, where the system does not let us. Call before there are threads."""
    user, group = os.getuid(), os.getgid()
    try:
        if user == 0:
            _call("unshare", CLONE_NEWNS)
        else:  # root in a namespace of users, where only we are
            _call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    except OSError as error:
        return f"no mounts of our own: {error}"
    return ""


def mount(path: Path, size: int) -> None:
    """An empty disk of `size` bytes on a folder."""
    _call("mount", b"tmpfs", bytes(path), b"tmpfs", 0, f"size={_pages(size)},mode=755".encode())


def resize(path: Path, size: int, *, read_only: bool = False) -> None:
    """Make a disk larger or smaller, never smaller than its files; or read-only."""
    flags = MS_REMOUNT | (MS_RDONLY if read_only else 0)
    _call("mount", b"tmpfs", bytes(path), b"tmpfs", flags, f"size={_pages(size)}".encode())


def unmount(path: Path) -> None:
    _call("umount2", bytes(path), MNT_DETACH)


def used(path: Path) -> int:
    """Bytes of the files on a disk, in whole pages."""
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _call(name: str, *values: object) -> None:
    if getattr(_libc, name)(*values):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")

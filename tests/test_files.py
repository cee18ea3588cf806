"""A file is the old one or the new one, never half of either."""

import hashlib
import os
from pathlib import Path

import pytest

from rewindctl.system.files import cache_folder, locked, replacing, require_state_folder, sha256, state_folder


def test_block_that_ends_well_leaves_the_new_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_old_file_is_whole_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new, in part")
        assert path.read_text() == "old"
        temporary.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_exception_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), replacing(tmp_path / "a.json") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_temporary_file_that_vanished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        temporary.unlink()
    assert path.read_text() == "old"


def test_temporary_file_is_a_neighbour_with_the_same_ending(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "weights.npz"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".npz"
        assert temporary != path
        temporary.write_bytes(b"x")
    assert path.read_bytes() == b"x"


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with replacing(path) as one, replacing(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one", "the last to end wins, whole"


def test_others_may_read_the_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("size", [0, 1, 2**20 + 7])
def test_sha256_is_that_of_the_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(index % 251 for index in range(size))
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_the_state_folder_is_this_users_alone_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may write there could change what an interrupted training goes on from."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home" / "state"))
    before = os.umask(0)
    try:
        require_state_folder()
    finally:
        os.umask(before)
    for folder in (state_folder(), *state_folder().parents[:2]):
        assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("place", [".", "lock"])
def test_a_lock_lets_one_in_and_leaves_what_it_locked(place: str, tmp_path: Path) -> None:
    """A folder, or a file; the folder of an outbox that is gone is not made anew."""
    path = tmp_path / place
    with locked(path), pytest.raises(BlockingIOError), locked(path, wait=False):
        raise AssertionError
    with locked(path, wait=False):
        pass
    assert path.exists()
    with pytest.raises(FileNotFoundError), locked(tmp_path / "gone" / place / "lock"):
        raise AssertionError
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("where", ["", "elsewhere", "/else/where"])
def test_xdg_says_where_the_folders_are_and_home_where_it_does_not(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system, and as written: a folder that moved would be an outbox that nobody finds."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_STATE_HOME", where)
    monkeypatch.setenv("XDG_CACHE_HOME", where)
    assert state_folder() == Path(where or "/home/me/.local/state", "rewindctl")
    assert cache_folder() == Path(where or "/home/me/.cache", "rewindctl")

"""Bundles that are damaged, cut, forged or hostile: each refused in one line, and the registry stays as it was."""

import gzip
import hashlib
import io
import json
import os
import random
import re
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Chain, Cli
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rewindctl.errors import IntegrityError, RewindError
from rewindctl.registry import Registry
from rewindctl.registry.bundle import export_bundle, import_bundle, matching, select
from rewindctl.registry.bundle.archive import read_bundle
from rewindctl.specs import canonical_json, parse_spec

Forge = Callable[[dict[str, Any]], object]  # edits an index in place
INDEX = 512  # where the bytes of the index start


@pytest.fixture(scope="module")
def light(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bundle of `chain` without checkpoints: small, and of every form that a larger one has."""
    registry = chain.registry()
    path = tmp_path_factory.mktemp("light") / "light.bundle"
    export_bundle(registry, select(registry, matching()), path, checkpoints=False)
    return path.read_bytes()


@pytest.fixture(scope="module")
def target(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry that no bundle of this file may change."""
    path = tmp_path_factory.mktemp("target") / "mlflow.db"
    path.write_bytes(empty_store.read_bytes())
    return Registry(f"sqlite:///{path}")


def state(registry: Registry) -> tuple[list[str], list[str]]:
    """Every row of the store, every file beside it."""
    path = Path(registry.uri.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump()), sorted(str(file) for file in path.parent.rglob("*"))


def refused(cli: Cli, target: Registry, *paths: Path) -> str:
    """The error line of an import that must fail with exit code 1, and must leave the registry as it was."""
    before = state(target)
    answer = cli("registry", "import", *map(str, paths), "--tracking-uri", target.uri)
    assert (answer.code, answer.out) == (1, ""), answer
    lines = answer.err.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) == 2
    assert lines[1].startswith("hint: ")
    assert "defect" not in lines[1]
    assert len(lines[0]) < 1_000
    assert state(target) == before
    return lines[0]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Forging: an index that was edited, with every digest and header made right again


def opened(bundle: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    (name,) = (name for name in content if name.startswith("index-"))
    return json.loads(content.pop(name)), content


def member(name: str, data: bytes, **header: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in header.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def closed(index: bytes, files: dict[str, bytes]) -> bytes:
    head = member(f"index-{hashlib.sha256(index).hexdigest()}.json", index)
    return head + b"".join(member(name, files[name]) for name in sorted(files)) + bytes(1024)


def forged(bundle: bytes, edit: Forge) -> bytes:
    index, files = opened(bundle)
    edit(index)
    return closed(json.dumps(index).encode(), files)


def put_file(bundle: bytes, run: int, path: str, data: bytes) -> bytes:
    """Replace an artifact of a run, and every digest that names it in the index."""
    index, files = opened(bundle)
    digest = hashlib.sha256(data).hexdigest()
    index["runs"][run]["artifacts"][path] = digest
    files[f"files/{digest}"] = data
    used = {name for entry in index["runs"] for name in entry["artifacts"].values()}
    files = {name: content for name, content in files.items() if name.removeprefix("files/") in used}
    index["files"] = [{"sha256": name[6:], "size": len(files[name])} for name in sorted(files)]
    return closed(json.dumps(index).encode(), files)


def respec(index: dict[str, Any], run: int, **fields: Any) -> None:
    """Another spec, with its own fingerprint."""
    spec = parse_spec(json.dumps(json.loads(index["runs"][run]["spec"]) | fields), "test")
    index["runs"][run] |= {"spec": spec.canonical(), "fingerprint": spec.fingerprint()}


def test_what_is_forged_without_an_edit_is_the_bundle_itself(light: bytes) -> None:
    index, files = opened(light)
    assert closed(canonical_json(index).encode(), files) == light


DENSE, PRUNE, RETRAIN = 0, 1, 2


def setting(run: int, key: str, value: Any) -> Forge:
    return lambda index: index["runs"][run].__setitem__(key, value)


def tagging(run: int, key: str, value: Any) -> Forge:
    return lambda index: index["runs"][run]["tags"].__setitem__(key, value)


def pathing(path: str) -> Forge:
    """The mask of the prune run under another path."""

    def edit(index: dict[str, Any]) -> None:
        artifacts = index["runs"][PRUNE]["artifacts"]
        artifacts[path] = artifacts.pop("mask/mask.safetensors")

    return edit


def point(run: int, value: Any) -> Forge:
    return lambda index: index["runs"][run]["metrics"]["test_accuracy"].__setitem__(0, value)


def cycle(index: dict[str, Any]) -> None:
    index["runs"][PRUNE]["parent"] = index["runs"][RETRAIN]["run_id"]


def deep(index: dict[str, Any]) -> None:
    value: list[Any] = []
    for _ in range(900):
        value = [value]
    index["runs"][DENSE]["tags"] = value


def endless(index: dict[str, Any]) -> None:
    """Prunings of retrainings of prunings: 1,200 levels, each with the right fingerprints."""
    runs = index["runs"] = index["runs"][:3]
    for level in range(1_200):
        copy = json.loads(json.dumps(runs[PRUNE if level % 2 == 0 else RETRAIN]))
        spec = json.loads(copy["spec"]) | {"parent_fingerprint": runs[-1]["fingerprint"]}
        made = parse_spec(json.dumps(spec), "test")
        copy |= {"run_id": f"{level:032x}", "parent": runs[-1]["run_id"], "spec": made.canonical()}
        runs.append(copy | {"fingerprint": made.fingerprint(), "group": made.group(runs[-1]["group"])})


def bomb(index: dict[str, Any]) -> None:
    """One file as ten thousand artifacts."""
    run = index["runs"][PRUNE]
    digest = run["artifacts"]["plots/density.png"]
    run["artifacts"] |= {f"plots/{number}.png": digest for number in range(9_000)}


FORGERIES: dict[str, tuple[Forge, str]] = {
    "path upwards": (pathing("../mask.safetensors"), "artifacts"),
    "path upwards inside": (pathing("mask/../../mask.safetensors"), "artifacts"),
    "path absolute": (pathing("/etc/passwd"), "artifacts"),
    "path with backslash": (pathing("mask\\mask.safetensors"), "artifacts"),
    "path with a control character": (pathing("mask/\x1bmask"), "artifacts"),
    "path with a newline": (pathing("mask/mask\n"), "artifacts"),
    "path empty": (pathing(""), "artifacts"),
    "path hidden": (pathing(".ssh/authorized_keys"), "artifacts"),
    "path doubled slash": (pathing("mask//mask"), "artifacts"),
    "path long": (pathing("m" * 300), "artifacts"),
    "path in a file": (pathing("spec.json/mask"), "inside another"),
    "path of other case": (pathing("mask/other.safetensors"), "do not match its manifest"),
    "size of terabytes": (lambda i: i["files"][0].__setitem__("size", 1 << 42), "size"),
    "size of gigabytes": (lambda i: i["files"][0].__setitem__("size", 1 << 32), "its index says"),
    "size negative": (lambda i: i["files"][0].__setitem__("size", -1), "size"),
    "size smaller": (lambda i: i["files"][0].__setitem__("size", 1), "stands where|is damaged|its index says"),
    "file not listed": (lambda i: i["files"].pop(), "its index says"),
    "file listed twice": (lambda i: i["files"].append(i["files"][0]), "its index says"),
    "files out of order": (lambda i: i["files"].reverse(), "in order"),
    "many copies": (bomb, "times as large"),
    "too many artifacts": (
        lambda i: i["runs"][DENSE]["artifacts"].update({f"x{n}": "0" * 64 for n in range(10_001)}),
        "artifacts",
    ),
    "spec edited": (
        lambda i: i["runs"][DENSE].__setitem__("spec", i["runs"][DENSE]["spec"].replace('"seed":0', '"seed":1')),
        "does not match its fingerprint",
    ),
    "spec and fingerprint edited": (lambda i: respec(i, RETRAIN, evaluate_every=6), "group|spec.json differs"),
    "spec of another kind": (setting(PRUNE, "kind", "retrain"), "has kind retrain"),
    "spec not canonical": (
        lambda i: i["runs"][DENSE].__setitem__("spec", " " + i["runs"][DENSE]["spec"]),
        "does not match its fingerprint",
    ),
    "spec no JSON": (setting(DENSE, "spec", "{"), "is not a spec"),
    "spec deep": (setting(DENSE, "spec", "[" * 7_000), "is not a spec"),
    "spec long": (setting(DENSE, "spec", "1" * 8_001), "spec"),
    "fingerprint edited": (setting(DENSE, "fingerprint", "0" * 64), "does not match its fingerprint"),
    "fingerprint short": (setting(DENSE, "fingerprint", "0"), "fingerprint"),
    "group edited": (setting(PRUNE, "group", "0" * 64), "has a group"),
    "label edited": (tagging(DENSE, "rewindctl.seed", "1"), "rewindctl.seed"),
    "label of the parent": (tagging(RETRAIN, "rewindctl.model", "resnet20"), "rewindctl.model"),
    "label missing": (lambda i: i["runs"][PRUNE]["tags"].pop("rewindctl.scope"), "rewindctl.scope"),
    "sparsity edited": (tagging(PRUNE, "rewindctl.sparsity", "0.9"), "rewindctl.sparsity"),
    "tag of the store": (tagging(DENSE, "mlflow.parentRunId", "0" * 32), "mlflow.parentRunId"),
    "tag foreign": (tagging(DENSE, "rewindctl.fingerprint", "0" * 64), "rewindctl.fingerprint"),
    "tag long": (tagging(DENSE, "mlflow.note.content", "x" * 8_001), "tags"),
    "tag with a control character": (tagging(DENSE, "rewindctl.device", "\x1b[31m"), "tags"),
    "tag no text": (tagging(DENSE, "rewindctl.device", 1), "tags"),
    "name empty": (setting(DENSE, "name", ""), "name"),
    "name of two lines": (setting(DENSE, "name", "a\nb"), "name"),
    "metric NaN": (point(DENSE, [0, 0, float("nan")]), "metrics|finite"),
    "metric infinite": (point(DENSE, [0, 0, float("inf")]), "metrics|finite"),
    "metric text": (point(DENSE, [0, 0, "0.9"]), "metrics"),
    "metric step negative": (point(DENSE, [-1, 0, 0.9]), "metrics"),
    "metric step huge": (point(DENSE, [1 << 70, 0, 0.9]), "metrics"),
    "metric of four numbers": (point(DENSE, [0, 0, 0.9, 1]), "metrics"),
    "metric not the recorded one": (point(DENSE, [24, 10**12, 0.9]), "record.json contradicts its index"),
    "tag not the recorded one": (tagging(DENSE, "rewindctl.device", "another"), "record.json contradicts"),
    "digest of a record of nobody": (tagging(DENSE, "rewindctl.record", "0" * 64), "record.json contradicts"),
    "metric after the end": (point(DENSE, [0, 10**13, 0.9]), "from after its end"),
    "metric without values": (lambda i: i["runs"][DENSE]["metrics"].__setitem__("lr", []), "metrics"),
    "metric name upwards": (lambda i: i["runs"][DENSE]["metrics"].__setitem__("../lr", [[0, 0, 0.1]]), "metrics"),
    "metric missing": (lambda i: i["runs"][PRUNE]["metrics"].pop("compression"), "no metric compression"),
    "times reversed": (setting(DENSE, "ended", 0), "ended before it started"),
    "time huge": (setting(DENSE, "ended", 10**15), "ended"),
    "parents in a circle": (cycle, "does not come before it"),
    "parent of itself": (
        lambda i: i["runs"][PRUNE].__setitem__("parent", i["runs"][PRUNE]["run_id"]),
        "does not come before it",
    ),
    "parent missing": (lambda i: i["runs"].pop(PRUNE), "does not come before it"),
    "parent later": (lambda i: i["runs"].reverse(), "does not come before it"),
    "parent none": (setting(PRUNE, "parent", None), "does not come before it"),
    "parent of a dense run": (setting(DENSE, "parent", "0" * 32), "a dense run with a parent"),
    "parent of the wrong kind": (
        lambda i: i["runs"][RETRAIN].__setitem__("parent", i["runs"][DENSE]["run_id"]),
        "with a dense run as parent",
    ),
    "parent not an ID": (setting(PRUNE, "parent", "../../x"), "parent"),
    "parent of another fingerprint": (lambda i: respec(i, DENSE, seed=1), "another parent fingerprint|rewindctl.seed"),
    "ancestors without end": (endless, "more than 1,000 ancestors"),
    "weights from a stranger": (setting(RETRAIN, "weights_from", "0" * 32 + "@6"), "no ancestor nor a replay of one"),
    "weights from nowhere": (setting(RETRAIN, "weights_from", None), "no ancestor nor a replay of one"),
    "weights of a mask": (setting(PRUNE, "weights_from", "0" * 32 + "@6"), "no ancestor nor a replay of one"),
    "run twice": (lambda i: i["runs"].insert(0, i["runs"][0]), "appears twice"),
    "run without manifest": (lambda i: i["runs"][DENSE]["artifacts"].pop("manifest.json"), "has no manifest.json"),
    "run without its spec": (lambda i: i["runs"][DENSE]["artifacts"].pop("spec.json"), "has no spec.json"),
    "mask left out": (
        lambda i: i["runs"][PRUNE]["omitted"].append("mask/mask.safetensors"),
        "twice, or one inside another|no checkpoint",
    ),
    "checkpoint not said to be left out": (lambda i: i["runs"][DENSE]["omitted"].pop(), "do not match its manifest"),
    "checkpoint that never was left out": (
        lambda i: i["runs"][DENSE]["omitted"].append("checkpoints/x.safetensors"),
        "do not match its manifest",
    ),
    "manifest of another run": (
        lambda i: i["runs"][3]["artifacts"].update(i["runs"][4]["artifacts"]),
        "files of its index|spec.json differs",
    ),
    "spec.json as mask": (
        lambda i: i["runs"][PRUNE]["artifacts"].__setitem__(
            "mask/layers.csv", i["runs"][PRUNE]["artifacts"]["spec.json"]
        ),
        "files of its index|does not match its manifest",
    ),
    "depth": (deep, "recursion limit"),
    "field unknown": (lambda i: i.__setitem__("extra", 1), "extra"),
    "field missing": (lambda i: i.pop("files"), "files"),
    "run field unknown": (setting(DENSE, "status", "FINISHED"), "status"),
    "version of the future": (lambda i: i.__setitem__("version", 2), "version"),
    "format of others": (lambda i: i.__setitem__("format", "x"), "format"),
    "no runs": (lambda i: i["runs"].clear(), "runs"),
    "parts of nothing": (lambda i: i.__setitem__("part_bytes", 0), "part_bytes"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_forged_index_is_refused(light: bytes, target: Registry, cli: Cli, tmp_path: Path, case: str) -> None:
    edit, words = FORGERIES[case]
    line = refused(cli, target, written(tmp_path / "b", forged(light, edit)))
    assert re.search(words, line), line


TEXTS = {
    "no JSON": b"{",
    "nothing": b"",
    "no object": b"[]",
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"runs":' * 200_000,
    "not UTF-8": b'{"format": "\xff\xfe"}',
    "lone surrogate": b'{"format": "\\ud800"}',
    "NaN": b"NaN",
    "huge number": b"1" * 10_000,
}


@pytest.mark.parametrize("case", TEXTS)
def test_an_index_that_is_no_index_is_refused(target: Registry, cli: Cli, tmp_path: Path, case: str) -> None:
    assert "the index of" in refused(cli, target, written(tmp_path / "b", closed(TEXTS[case], {})))


FILES = {
    "manifest no JSON": ("manifest.json", b"{", "manifest.json"),
    "manifest deep": ("manifest.json", b'{"schema":' * 50_000, "manifest.json"),
    "manifest empty": ("manifest.json", b'{"schema": 1, "artifacts": {}}', "do not match its manifest"),
    "manifest path upwards": (
        "manifest.json",
        b'{"schema": 1, "artifacts": {"../x": {"sha256": "' + b"0" * 64 + b'", "size": 1}}}',
        "manifest.json",
    ),
    "spec of another": ("spec.json", b"{}", "spec.json"),
    "spec not UTF-8": ("spec.json", b"\xff", "spec.json"),
    "spec deep": ("spec.json", b"[" * 50_000, "spec.json"),
    "mask replaced": ("mask/mask.safetensors", b"mask", "mask/mask.safetensors does not match its manifest"),
}


def test_a_spec_file_that_only_the_manifest_agrees_with_is_refused(
    light: bytes, target: Registry, cli: Cli, tmp_path: Path
) -> None:
    index, files = opened(light)
    for data in (b"{}", b"\xff", b"[" * 50_000, b'{"kind": "prune"}'):
        manifest = json.loads(files["files/" + index["runs"][PRUNE]["artifacts"]["manifest.json"]])
        manifest["artifacts"]["spec.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        bundle = put_file(
            put_file(light, PRUNE, "spec.json", data), PRUNE, "manifest.json", json.dumps(manifest).encode()
        )
        assert "spec.json differs" in refused(cli, target, written(tmp_path / "b", bundle))


@pytest.mark.parametrize("case", FILES)
def test_a_forged_file_is_refused(light: bytes, target: Registry, cli: Cli, tmp_path: Path, case: str) -> None:
    path, data, words = FILES[case]
    assert words in refused(cli, target, written(tmp_path / "b", put_file(light, PRUNE, path, data)))


# Archives that are something else


def with_member(light: bytes, extra: bytes, *, at_end: bool = False) -> bytes:
    """The bundle with a member put in after its index, or after everything."""
    index, files = opened(light)
    head = member("index", canonical_json(index).encode())
    cut = len(light) - 1024 if at_end else len(head)
    del files
    return light[:cut] + extra + light[cut:]


def replaced(light: bytes, **header: Any) -> bytes:
    """The first file's header replaced by another of the same place."""
    _, files = opened(light)
    name = min(files)
    start = light.index(name.encode())
    body = b"" if header.get("type", tarfile.REGTYPE) != tarfile.REGTYPE else files[name]
    new = member(header.pop("name", name), body, **header)
    return light[:start] + new + light[start + len(member(name, files[name])) :]


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../evil", data)
    return buffer.getvalue()


def tarred(names: dict[str, bytes]) -> bytes:
    return b"".join(member(name, data) for name, data in names.items()) + bytes(1024)


def claimed(size: int) -> bytes:
    info = tarfile.TarInfo("index-" + "0" * 64 + ".json")
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(2048)


ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "one byte": lambda b: b"x",
    "text": lambda b: b"not a bundle\n" * 500,
    "zeros": lambda b: bytes(10_000),
    "noise": lambda b: random.Random(0).randbytes(10_000),
    "zip": zipped,
    "gzip": gzip.compress,
    "other tar": lambda b: tarred({"readme": b"hello"}),
    "tar of nothing": lambda b: bytes(10_240),
    "index of another name": lambda b: tarred({"index.json": b"{}"}),
    "index claims gigabytes": lambda b: claimed(1 << 32),
    "index is a link": lambda b: member(
        "index-" + "0" * 64 + ".json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"
    ),
    "member upwards": lambda b: replaced(b, name="../../../evil"),
    "member absolute": lambda b: replaced(b, name="/tmp/evil"),
    "member symlink": lambda b: replaced(b, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "member hard link": lambda b: replaced(b, type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "member device": lambda b: replaced(b, type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "member fifo": lambda b: replaced(b, type=tarfile.FIFOTYPE),
    "member folder": lambda b: replaced(b, type=tarfile.DIRTYPE),
    "member sparse": lambda b: replaced(b, type=tarfile.GNUTYPE_SPARSE),
    "member of PAX": lambda b: replaced(b, type=tarfile.XHDTYPE),
    "member executable": lambda b: replaced(b, mode=0o4755),
    "member owned": lambda b: replaced(b, uid=1000),
    "member dated": lambda b: replaced(b, mtime=1),
    "member extra": lambda b: with_member(b, member("files/" + "0" * 64, b"extra")),
    "member extra at the end": lambda b: with_member(b, member("evil", b"extra"), at_end=True),
    "member doubled": lambda b: with_member(b, member(min(opened(b)[1]), opened(b)[1][min(opened(b)[1])])),
    "something behind the end": lambda b: b + bytes(512),
    "two bundles": lambda b: b + b,
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_hostile_archive_is_refused(light: bytes, target: Registry, cli: Cli, tmp_path: Path, case: str) -> None:
    assert str(tmp_path / "b") in refused(cli, target, written(tmp_path / "b", ARCHIVES[case](light)))
    assert not (tmp_path.parent / "evil").exists()
    assert not Path("/tmp/evil").exists()


def test_a_wrong_header_is_named_even_where_all_sizes_agree(
    light: bytes, target: Registry, cli: Cli, tmp_path: Path
) -> None:
    other = "files/" + "0" * 64
    line = refused(cli, target, written(tmp_path / "b", replaced(light, name=other)))
    assert f"member '{other}' was found in the place of {min(opened(light)[1])}" in line


def test_a_damaged_file_is_named(light: bytes, target: Registry, cli: Cli, tmp_path: Path) -> None:
    data = bytearray(light)
    name = max(opened(light)[1])
    data[data.rindex(name.encode()) + 512] ^= 1
    line = refused(cli, target, written(tmp_path / "b", bytes(data)))
    assert f"{tmp_path / 'b'}: {name} is damaged" in line


def test_a_bundle_cut_anywhere_is_refused(light: bytes, target: Registry, tmp_path: Path) -> None:
    before = state(target)
    for length in (*range(0, 2048, 97), *range(2048, len(light), 1777), len(light) - 1):
        with pytest.raises(IntegrityError):
            import_bundle(lambda: target, [written(tmp_path / "b", light[:length])])
    assert state(target) == before


def test_a_bit_flipped_anywhere_is_refused(light: bytes, target: Registry, tmp_path: Path) -> None:
    before = state(target)
    for offset in (*range(0, 1024, 13), *range(1024, len(light), 1031), len(light) - 1):
        data = bytearray(light)
        data[offset] ^= 1 << offset % 8
        with pytest.raises(IntegrityError):
            import_bundle(lambda: target, [written(tmp_path / "b", bytes(data))])
    assert state(target) == before


# Parts


@pytest.fixture
def parts(chain: Chain, tmp_path: Path) -> list[Path]:
    """The lineage of one retraining in four parts."""
    registry = chain.registry()
    runs = select(registry, matching(run_ids=[chain.lr_rewind]))
    (whole,) = export_bundle(registry, runs, tmp_path / "whole").paths
    return list(export_bundle(registry, runs, tmp_path / "p", part_bytes=2 * whole.stat().st_size // 7).paths)


def missing(number: int) -> Callable[[list[Path]], object]:
    return lambda parts: parts[number].unlink()


def swap(parts: list[Path]) -> None:
    one, other = parts[1].read_bytes(), parts[2].read_bytes()
    parts[1].write_bytes(other)
    parts[2].write_bytes(one)


def foreign(parts: list[Path]) -> None:
    parts[2].write_bytes(random.Random(1).randbytes(parts[2].stat().st_size))


BROKEN_PARTS: dict[str, tuple[Callable[[list[Path]], object], str]] = {
    "first missing": (missing(0), "p.001 is missing"),
    "second missing": (missing(1), "p.002 is missing"),
    "last missing": (missing(3), "p.004 is missing"),
    "two swapped": (swap, "p.002|p.003"),
    "one of another bundle": (foreign, "p.003"),
    "one cut": (lambda parts: os.truncate(parts[1], 1000), "p.002 has 1,000 bytes"),
    "one longer": (lambda parts: parts[2].write_bytes(parts[2].read_bytes() + b"x"), "p.003 has"),
    "one empty": (lambda parts: parts[3].write_bytes(b""), "p.004 has 0 bytes"),
    "one too many": (lambda parts: (parts[0].parent / "p.005").write_bytes(b"x"), "p.005 has 1 bytes"),
    "one far away": (lambda parts: (parts[0].parent / "p.009").write_bytes(b"x"), "p.005 is missing"),
}


@pytest.mark.parametrize("case", BROKEN_PARTS)
def test_broken_parts_are_refused(parts: list[Path], target: Registry, cli: Cli, tmp_path: Path, case: str) -> None:
    damage, words = BROKEN_PARTS[case]
    damage(parts)
    assert re.search(words, refused(cli, target, tmp_path / "p"))


def test_a_part_of_a_bundle_that_has_none_is_refused(light: bytes, target: Registry, cli: Cli, tmp_path: Path) -> None:
    paths = [written(tmp_path / f"q.{number:03d}", data) for number, data in ((1, light[:9000]), (2, light[9000:]))]
    assert re.search("q.002 is not a part|ends too early", refused(cli, target, *paths))


# Anything at all


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_bytes_gets_through(light: bytes, target: Registry, tmp_path: Path, data: st.DataObject) -> None:
    changed = bytearray(light)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(changed)) | st.integers(0, 2048))
        stop = data.draw(st.integers(start, start + 600))
        changed[start:stop] = data.draw(st.binary(max_size=600))
    assume(bytes(changed) != light)
    before = state(target)
    with pytest.raises(RewindError):
        import_bundle(lambda: target, [written(tmp_path / "b", bytes(changed))])
    assert state(target) == before


JUNK = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=70)
    | st.sampled_from(["0" * 64, "0" * 32, "../x", "{}", [], {}, [[0, 0, 0.5]], "checkpoints/final.safetensors"])
)


def replace_somewhere(value: Any, draw: Callable[[st.SearchStrategy[Any]], Any], depth: int = 0) -> Any:
    """A copy of `value` with one thing inside it replaced by junk, put in or taken out."""
    if not isinstance(value, dict | list) or not value or (depth > 1 and draw(st.integers(0, 4)) == 0):
        return draw(JUNK)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    copy: Any = value.copy()
    change = draw(st.sampled_from(["into"] * 6 + ["out", "twice"]))
    if change == "out":
        del copy[key]
    elif change == "twice" and isinstance(copy, list):
        copy.append(copy[key])
    else:
        copy[key] = replace_somewhere(value[key], draw, depth + 1)
    return copy


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_forged_index_crashes_the_reader(
    light: bytes, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, data: st.DataObject
) -> None:
    index, files = opened(light)
    text = json.dumps(replace_somewhere(index, data.draw)).encode("utf-8", "surrogatepass")
    path = written(tmp_path / "b", closed(text, files))
    with suppress(RewindError):  # and nothing else
        read = read_bundle([path], tmp_path_factory.mktemp("out"))
        assert {run.fingerprint for run in read.index.runs} <= {run["fingerprint"] for run in index["runs"]}

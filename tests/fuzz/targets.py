"""Every reader of foreign bytes, as a function of bytes and a folder of its own, with files to begin from.

A digest, a checksum or a length before the interesting part would stop a fuzzer at the door: such formats have a
second target, whose bytes are the interesting part alone, put into a file that is right otherwise.
"""

import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.entities  # noqa: F401 (what it runs at import is not a reader's doing)
import numpy as np
import torch
from fuzz import stored
from PIL import Image

from rewindctl.commands import command_of
from rewindctl.conditions import parse_conditions
from rewindctl.datasets import Dataset
from rewindctl.datasets.cifar import unpickled
from rewindctl.datasets.files import _read_image, load_dataset
from rewindctl.datasets.npz import read_npz
from rewindctl.errors import RewindError, UsageError
from rewindctl.paper.study import load_study, study_text
from rewindctl.pipeline.requests import dense_spec
from rewindctl.pruning import Mask
from rewindctl.pruning import mask as masks
from rewindctl.registry import RunRecord
from rewindctl.registry.bundle.archive import END, header, read_bundle
from rewindctl.registry.bundle.index import check_runs, parse_index
from rewindctl.registry.runs.manifest import parse_manifest
from rewindctl.registry.runs.stored_point import about_of
from rewindctl.report.cells import summarise
from rewindctl.report.facts import parse_layers
from rewindctl.report.formats import formats
from rewindctl.report.frame import scale_of
from rewindctl.report.rows import read_rows
from rewindctl.report.tables import tables
from rewindctl.rewinding import checkpoints
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import DenseSpec, parse_spec, parse_tuning_spec
from rewindctl.tuning.space import distributions, read_space

Target = Callable[[bytes, Path], None]


@dataclass(frozen=True)
class Reader:
    """A target, valid files of its format, and files made to do harm."""

    target: Target
    valid: tuple[bytes, ...]
    hostile: tuple[bytes, ...] = ()

    @property
    def corpus(self) -> tuple[bytes, ...]:
        return self.valid + self.hostile


def _file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# --- networks and masks


def checkpoint(data: bytes, folder: Path) -> None:
    path = _file(folder, "checkpoint.safetensors", data)
    with suppress(RewindError):  # a state without notes is one
        TrainState.notes(path)
    TrainState.load(path)


def checkpoint_header(data: bytes, folder: Path) -> None:
    checkpoint(struct.pack("<Q", len(data)) + data + bytes(64), folder)


def checkpoint_notes(data: bytes, folder: Path) -> None:
    checkpoint(_safetensors({checkpoints.FORMAT: data.decode("utf-8", "replace")}), folder)


def resume(data: bytes, folder: Path) -> None:
    stored.resume_point(_file(folder, "resume.safetensors", data))


def resume_notes(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", "replace")
    notes = f'{{"iteration": 1, "data_position": 1, "notes": {text}}}'
    resume(_safetensors({checkpoints.FORMAT: notes}), folder)


def stored_point(data: bytes, folder: Path) -> None:
    path = _file(folder, "point", data)
    assert about_of(path).size < len(data)


def stored_point_line(data: bytes, folder: Path) -> None:
    stored_point(b"123\n" + data, folder)


def mask(data: bytes, folder: Path) -> None:
    found = Mask.load(_file(folder, "mask.safetensors", data))
    assert 0 <= found.kept <= found.total


def mask_shapes(data: bytes, folder: Path) -> None:
    mask(_safetensors({masks.FORMAT: data.decode("utf-8", "replace")}, "U8", 8), folder)


def _safetensors(metadata: dict[str, str], dtype: str = "F32", length: int = 2) -> bytes:
    fields = {"dtype": dtype, "shape": [length], "data_offsets": [0, 8]}
    text = json.dumps({"__metadata__": metadata, "w" if dtype == "U8" else "parameters/w": fields}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


def _saved(save: Callable[[Path], None]) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def _state() -> bytes:
    weights, momentum = {"w": torch.ones(2, 3)}, {"w": torch.zeros(2, 3)}
    return _saved(lambda path: TrainState(weights, {}, momentum, 3, 4).save(path, _notes()))


EVALUATION = {"iteration": 3, "lr": 0.1, "train_loss": None, "test_loss": 1.5, "test_accuracy": 0.5}
FILE_DIGEST = {"checkpoints/00000000.safetensors": {"sha256": "ab" * 32, "size": 3}}
POINT = {"iteration": 3, "made_on": {"device": "a GPU"}, "sha256": "ab" * 32, "size": 3}


def _notes(**changes: Any) -> dict[str, Any]:
    return {"evaluations": [EVALUATION], "training_seconds": 1.5, "digests": FILE_DIGEST} | changes


def _mask() -> bytes:
    return _saved(Mask({"w": torch.tensor([[True, False, True]])}).save)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


# --- data


def npz(data: bytes, folder: Path) -> None:
    Dataset.from_arrays("toy", read_npz(_file(folder, "toy.npz", data)), "toy.npz")


def npz_member(data: bytes, folder: Path) -> None:
    """The bytes of `x_train`, in an archive that is right otherwise."""
    npz(_zip({"x_train": data, **{key: _npy(value) for key, value in _arrays().items() if key != "x_train"}}), folder)


def image(data: bytes, folder: Path) -> None:
    _read_image(_file(folder, "image.png", data))


def data_record(data: bytes, folder: Path) -> None:
    _file(folder, "toy.npz", _zip({key: _npy(value) for key, value in _arrays().items()}))
    _file(folder, "toy.dataset.json", data)
    load_dataset("toy", folder)


def cifar(data: bytes, folder: Path) -> None:
    try:
        unpickled(data)
    except ValueError as error:
        raise UsageError(str(error)) from None  # what its caller makes of it


def _arrays() -> dict[str, Any]:
    images = np.arange(48, dtype=np.uint8).reshape(4, 3, 4, 1)
    return {"x_train": images, "y_train": np.arange(4) % 2, "x_test": images, "y_test": np.arange(4) % 2}


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _zip(members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def _npy_claiming(shape: str, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


def _picture(suffix: str, size: tuple[int, int] = (5, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (1, 2, 3)).save(buffer, suffix)
    return buffer.getvalue()


class Trap:
    """Says `sprung` where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("sprung",)


# --- studies, spaces, rows, conditions


def study(data: bytes, folder: Path) -> None:
    load_study(str(_file(folder, "study.yaml", data)))


def space(data: bytes, folder: Path) -> None:
    for method in ("finetune", "weight_rewind"):
        try:
            distributions(read_space(_file(folder, "space.yaml", data), method))
        except RewindError:
            if method != "finetune":
                raise


def rows(data: bytes, folder: Path) -> None:
    found = read_rows(_file(folder, "runs.csv", data))
    retrained = found[found["method"] != "none"]
    table = tables["results"](summarise(retrained)) if len(retrained) else found
    for form in formats:
        assert formats[form](table) is not None


def layers(data: bytes, folder: Path) -> None:
    found = parse_layers(_file(folder, "layers.csv", data), "layers.csv")
    assert all(layer.weights > 0 for layer in found)


def condition(data: bytes, folder: Path) -> None:
    for one in parse_conditions(data.decode("utf-8", "replace"), "--where"):
        for value in (None, 1.0, "lr_rewind"):
            one.holds(value)


ROW = """
run_id=a1 model=resnet8 dataset=digits iterations=100 scale=0.1 structure=unstructured scope=global
criterion=magnitude channel_norm=keep pruned_at= schedule=one_shot step= level=1 method=finetune label=finetune
group=g seed=0 sparsity_asked=0.8 sparsity=0.8 compression=5 test_accuracy=0.9 test_accuracy_best=0.9
dense_run_id=d1 dense_group=dg dense_accuracy=0.9 dense_accuracy_best=0.9 device=cpu data_digest=ab
iterations_per_second=10 ended=2026-01-01T00:00:00Z
"""


def _row(**changes: str) -> bytes:
    row = dict(word.split("=", 1) for word in ROW.split()) | changes
    return f"{','.join(row)}\n{','.join(row.values())}\n".encode()


# --- what a registry or a bundle says


def bundle(data: bytes, folder: Path) -> None:
    (folder / "files").mkdir(exist_ok=True)
    for old in (folder / "files").iterdir():
        old.unlink()
    read_bundle([_file(folder, "toy.bundle", data)], folder / "files")


def bundle_index(data: bytes, folder: Path) -> None:
    """The bytes of the index: alone, and at the head of a bundle."""
    check_runs(parse_index(data, "toy.bundle"), "toy.bundle")
    bundle(_bundle(data), folder)


def _bundle(index: bytes, *files: bytes) -> bytes:
    members = [(f"index-{hashlib.sha256(index).hexdigest()}.json", index)]
    members += sorted((f"files/{hashlib.sha256(content).hexdigest()}", content) for content in files)
    return b"".join(header(name, len(body)) + body + bytes(-len(body) % 512) for name, body in members) + END


def manifest(data: bytes, folder: Path) -> None:
    for path in parse_manifest(data, "run x").artifacts:
        assert (folder / path).resolve().is_relative_to(folder.resolve())


def spec(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", "replace")
    try:
        parse_tuning_spec(text, "the spec").fingerprint()
    except RewindError:
        found = parse_spec(text, "the spec")
        command_of(found, "abc")
        if isinstance(found, DenseSpec):
            assert scale_of(found) > 0
        found.group(None)


def run(data: bytes, folder: Path) -> None:
    """What a store says of a run, as JSON, to every place that shows runs."""
    try:
        said = json.loads(data)
        run_id, name, status, started, ended = (said[key] for key in ("run_id", "name", "status", "started", "ended"))
        tags, params = ({str(k): str(v) for k, v in said[part].items()} for part in ("tags", "params"))
        metrics = {str(key): float(value) for key, value in said["metrics"].items()}
        entity = _entity(str(run_id), str(name), str(status), int(started), int(ended), tags, params, metrics)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise UsageError("no answer of a store") from None
    except Exception:  # protobuf and MLflow refuse it with errors of their own, which the client makes plain
        raise UsageError("no answer of a store") from None
    record = RunRecord.from_mlflow(entity)
    stored.shown(record)
    if record.kind in ("dense", "prune", "retrain"):
        assert record.spec.kind == record.kind


def _entity(run_id: str, name: str, status: str, started: int, ended: int, *data: dict[str, Any]) -> Any:
    from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag

    tags, params, metrics = data
    info = RunInfo(run_id, "1", "me", status, started, ended, "active", "file:///nowhere", run_name=name)
    return Run(
        info,
        RunData(
            [Metric(key, value, 0, 0) for key, value in metrics.items()],
            [Param(key, value) for key, value in params.items()],
            [RunTag(key, value) for key, value in tags.items()],
        ),
    )


def _dense_text() -> str:
    from types import SimpleNamespace

    facts = SimpleNamespace(name="digits", digest="ab" * 32, train_size=1000, image_size=(8, 8))
    return dense_spec("resnet8", facts, 0, iterations=100).canonical()


def _run(**changes: Any) -> bytes:
    tags = {"rewindctl.kind": "dense", "rewindctl.schema": "1", "rewindctl.spec": _dense_text()}
    said = {"run_id": "ab" * 16, "name": "dense s0", "status": "FINISHED", "started": 10**12, "ended": 10**12 + 5}
    return _json({**said, "tags": tags, "params": {"seed": "0"}, "metrics": {"test_accuracy": 0.5}} | changes)


# As the published files: written by Python 2, an array of 2 x 6 bytes and a list of labels.
CIFAR_PICKLE = (
    b"\x80\x02}(U\x06labels](K\x00K\x01eU\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
    b"\x87R(K\x01K\x02K\x06\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89U\x0c\x00\x01\x02\x03\x04\x05\x06\x07\x08\xfd\xfe\xfftbu."
)

NAME = (
    '=HYPERLINK("http://x")<script>alert(1)</script>](javascript:x)\x1b]0;x\x07\x1b[2J\x9b31m\u202e$\\frac{$`|\r\n[red]'
)
LONG = "9" * 5_000
AT_1 = '{"iteration":1,"data_position":1}'
TENSOR = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}

READERS: dict[str, Reader] = {
    "checkpoint": Reader(checkpoint, (_state(),), (b"", b"\xff" * 8, struct.pack("<Q", 2**60) + b"{}", b"\x80\x04.")),
    "checkpoint-header": Reader(
        checkpoint_header,
        (_json({"__metadata__": {checkpoints.FORMAT: AT_1}, "parameters/w": TENSOR}),),
        tuple(
            _json({"__metadata__": {checkpoints.FORMAT: AT_1}, "parameters/w": fields})
            for fields in (
                {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]},
                {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]},
                {"dtype": "F32", "shape": [2**32, 2**32, 2**32], "data_offsets": [0, 64]},
                {"dtype": "F32", "shape": [1] * 2_000, "data_offsets": [0, 4]},
                {"dtype": "F8_E8M0", "shape": [64], "data_offsets": [0, 64]},
                {"dtype": "F4", "shape": [128], "data_offsets": [0, 64]},
                {"dtype": "C64", "shape": [8], "data_offsets": [0, 64]},
            )
        ),
    ),
    "checkpoint-notes": Reader(
        checkpoint_notes,
        (b'{"iteration": 1, "data_position": 2, "notes": {"a": 1}}',),
        (b"[" * 10_000, b'{"iteration": 1e999, "data_position": 0}', b'{"iteration": ' + b"9" * 4_000 + b"}", b"null"),
    ),
    "resume": Reader(resume, (_state(),), (b"", _state()[:-4], b"\xff" * 8)),
    "resume-notes": Reader(
        resume_notes,
        (_json(_notes()),),
        (
            _json(_notes(evaluations=[{**EVALUATION, "iteration": "3"}])),
            _json(_notes(evaluations=[{**EVALUATION, "test_accuracy": float("nan")}])),
            _json(_notes(evaluations=[{**EVALUATION, "train_loss": [1]}])),
            _json(_notes(digests={"../../x": {"sha256": "ab" * 32, "size": 3}})),
            _json(_notes(digests={"x": {"sha256": 7, "size": -1}})),
            _json(_notes(digests=[["x", "y"]])),
            _json(_notes(training_seconds="1e999")),
            _json(_notes(training_seconds=-1.0)),
            b"[" * 50_000,
        ),
    ),
    "stored-point": Reader(stored_point, (b"123\n" + _json(POINT),), (b"", b"\n", b"\n" * 9_000)),
    "stored-point-line": Reader(
        stored_point_line,
        (_json(POINT),),
        (
            _json({**POINT, "size": -1}),
            _json({**POINT, "size": 2**70}),
            _json({**POINT, "iteration": 2**70}),
            _json({**POINT, "made_on": {"a": "b" * 3_000}}),
            _json({**POINT, "made_on": {"a": ["b"]}}),
            _json({**POINT, "sha256": "../x"}),
            b"[" * 4_000,
        ),
    ),
    "mask": Reader(mask, (_mask(),), (b"", b"\x00" * 8, struct.pack("<Q", 2**63) + b"{}")),
    "mask-shapes": Reader(
        mask_shapes,
        (b'{"kernels": {"w": [8, 8]}, "norms": {}}', b'{"kernels": {"w": [61]}, "norms": {}}'),
        (
            _json({"kernels": {"w": [2**62, 2**62]}, "norms": {}}),
            _json({"kernels": {"w": [10**4_000] * 50}, "norms": {}}),
            _json({"kernels": {"w": [1] * 100_000}, "norms": {}}),
            _json({"kernels": {"w": [True, 64]}, "norms": {"w": "88"}}),
            b"[" * 50_000,
        ),
    ),
    "npz": Reader(
        npz,
        (_zip({key: _npy(value) for key, value in _arrays().items()}),),
        (
            _zip({"x_train": bytes(300 << 10) * 1_000} | {key: _npy(value) for key, value in _arrays().items()}),
            _zip({"x_train": bytes(1 << 20)}, zipfile.ZIP_BZIP2),
            _zip({"../../x_train": b"", "/x_train": b""}),
            pickle.dumps(Trap()),
            b"PK\x05\x06" + bytes(18),
        ),
    ),
    "npz-member": Reader(
        npz_member,
        (_npy(_arrays()["x_train"]),),
        (
            _npy_claiming("(1099511627776, 1000, 1000)"),
            _npy_claiming("(-1,)"),
            _npy_claiming("(64,)", "|O"),
            _npy_claiming("(1,)", "<U1000000000"),
            _npy_claiming("(" * 3_000 + ")" * 3_000),
            b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{" * 100,
            pickle.dumps(Trap()),
        ),
    ),
    "image": Reader(
        image,
        tuple(_picture(form) for form in ("PNG", "JPEG", "BMP", "WEBP")),
        (
            _picture("PNG", (6_000, 6_000))[:2_000],
            _picture("EPS"),
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file\n",
            _picture("GIF"),
            _picture("TIFF"),
        ),
    ),
    "data-record": Reader(
        data_record, (b'{"digest": "ab", "source": "x"}',), (b"[" * 50_000, b"null", b'{"digest": [1]}')
    ),
    "cifar": Reader(
        cifar,
        (CIFAR_PICKLE, pickle.dumps({"a": ["b"]}, 2)),
        (
            pickle.dumps(Trap(), 2),
            b"cos\nsystem\n(S'echo sprung'\ntR.",
            b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
            b"cnumpy\nndarray\n(I99999999999\ntR.",
            b"\x80\x02]r" + struct.pack("<I", 1 << 27) + b".",
        ),
    ),
    "study": Reader(
        study,
        (
            study_text("fig1").encode(),
            b"schema: 1\nname: x\ntitle: y\npanels:\n  - {model: resnet8, dataset: digits}\n",
        ),
        (
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (i + 1, i + 1, *([i] * 7)) for i in range(97, 110)),
            b"a: " + b"1" + b":59" * 200_000,
            b"[" * 5_000,
            b"{a: " * 5_000,
            b"!!python/object/apply:os.system ['echo sprung']",
            b"a: !!python/name:os.system",
            b"? [x, y]\n: z",
            b"a: &x [*x]",
            b"\xff\xfe\x00",
            b"- " * 20_000,
            b"a: 1e999999999",
        ),
    ),
    "space": Reader(
        space,
        (b"lr: {type: float, low: 0.00001, high: 0.1, log: true}\n", b"k: {type: categorical, choices: [0, 6]}\n"),
        (
            b"iterations: {type: int, low: 1, high: 1.0e+308}\n",
            b"lr: {type: float, low: 1.0e-308, high: 1.0e+308, step: 1.0e-308}\n",
            b"k: {type: int, low: 0, high: 1, step: 0.0000001}\n",
            b"lr: [*x]",
            b"lr: {type: float, low: .nan, high: .inf}\n",
        ),
    ),
    "rows": Reader(
        rows,
        (_row(), _row(schedule="iterative", step="0.2")),
        (
            _row(label=f'"{NAME}"'),
            _row(label="$x_{$"),
            _row(label="=1+1", device="@SUM(1)"),
            _row(iterations="9" * 400),
            _row(scale="nan", compression="1e999"),
            b"a," * 200_000,
            b'"' + b"x" * 200_000,
            b"\x00" * 1_000,
            _row().replace(b"\n", b"\r"),
        ),
    ),
    "layers": Reader(
        layers,
        (b"layer,shape,weights,kept,sparsity\nconv,4x3x2x2,48,24,0.5\n",),
        (
            b"layer,shape,weights,kept,sparsity\nconv,4,0,0,nan\n",
            b"layer,shape,weights,kept,sparsity\nconv\n",
            b"layer,shape,weights,kept,sparsity\nc,4," + b"9" * 5_000 + b",1,0\n",
            b"\xff",
            b"x\n" * 1_000,
            b'"' * 200_001,
        ),
    ),
    "condition": Reader(condition, (b"method=lr_rewind,compression>5",), (b"a=" + b"9" * 10_000, b",,,", b"x>nan")),
    "bundle": Reader(bundle, (_bundle(b"{}"),), (b"", bytes(4_096), header("index-" + "0" * 64 + ".json", 8**11 - 1))),
    "bundle-index": Reader(
        bundle_index,
        (
            _json({"format": "rewindctl-bundle", "version": 1, "part_bytes": None, "files": [], "runs": []}),
            _json(
                {"files": [{"sha256": "ab" * 32, "size": 1}], "runs": [{"run_id": "ab" * 16, "spec": _dense_text()}]}
            ),
        ),
        (b"[" * 50_000, b'{"version": ' + b"9" * 5_000 + b"}", b'{"files": [{"sha256": "..", "size": -1}]}'),
    ),
    "manifest": Reader(
        manifest,
        (_json({"schema": 1, "artifacts": {"spec.json": {"sha256": "ab" * 32, "size": 3}}}),),
        tuple(
            _json({"schema": 1, "artifacts": {path: {"sha256": "ab" * 32, "size": 3}}})
            for path in ("../../etc/passwd", "/etc/passwd", "a/../../b", ".", "", "a\x00b", "a\\..\\b", "x" * 1_000)
        ),
    ),
    "spec": Reader(
        spec,
        (_dense_text().encode(),),
        (
            _dense_text().replace('"iterations":100', f'"iterations":{10**400}').encode(),
            _dense_text().replace('"seed":0', f'"seed":{LONG}').encode(),
            _dense_text().replace("resnet8", "../../x").encode(),
            b"[" * 50_000,
        ),
    ),
    "run": Reader(
        run,
        (_run(), _run(tags={"rewindctl.kind": "retrain", "mlflow.parentRunId": "cd" * 16})),
        (
            _run(name=NAME, tags={f"rewindctl.{key}": NAME for key in ("kind", "model", "error", "trial_state")}),
            _run(tags={"rewindctl.model": f"resnet{LONG}", "rewindctl.seed": "nan", "rewindctl.sparsity": "inf"}),
            _run(tags={"rewindctl.kind": "retrain", "rewindctl.weights_from": f"{NAME}@{LONG}"}),
            _run(metrics={"test_accuracy": float("nan"), "delta_accuracy": float("inf"), NAME: 1.0}),
            _run(params={NAME: NAME, "iterations": LONG, "k": "nan"}),
            _run(run_id="../../../etc/x"),
            _run(started=2**62, ended=-(2**62)),
        ),
    ),
    "tune-journal": Reader(
        stored.journal,
        (stored.journal_lines(), b""),
        (
            stored.journal_changed('"beat":1.0', '"beat":"soon"'),
            stored.journal_changed('"beat":1.0', '"beat":NaN'),
            stored.journal_changed('"owner":"elsewhere', '"repeats":"x", "owner": "elsewhere'),
            stored.journal_changed('"op_code":4', '"op_code":99'),
            stored.journal_changed('"trial_id":0', '"trial_id":4294967296'),
            stored.journal_changed('"directions":[2]', '"directions":[1,1]'),
            stored.journal_changed('"values":[0.5]', '"values":["x"]'),
            stored.journal_changed('"values":[0.5]', '"values":[NaN]'),
            stored.journal_changed('"param_value_internal":', '"param_value_internal":"x","y":'),
            stored.journal_changed('"name\\": \\"Float', '"name\\": \\"Int'),
            b"[" * 50_000 + b"\n",
            stored.journal_lines() + b'{"op_code": ' + b"9" * 5_000 + b"}\n",
        ),
    ),
    "store-file": Reader(
        stored.store_file,
        (stored.empty_store(rows=True),),
        (b"SQLite format 3\x00" + bytes(1_000), stored.empty_store()[:8_192], b"\x00" * 512, b"PK\x03\x04"),
    ),
    "store-rows": Reader(
        stored.store_rows,
        (stored.rows(), b"{}"),
        (
            stored.rows(runs__name=NAME, tags__value=NAME, params__key=NAME, latest_metrics__key=NAME),
            stored.rows(runs__start_time="soon", runs__end_time=[1, 2]),
            stored.rows(runs__name=[255, 0], tags__value=[255, 0], params__value=[255]),
            stored.rows(runs__run_uuid="../../../etc/x", tags__run_uuid="../../../etc/x"),
            stored.rows(latest_metrics__value="x", latest_metrics__is_nan="y"),
            stored.rows(runs__status="ODD", runs__lifecycle_stage=None),
            stored.rows(runs__artifact_uri=None),
            stored.rows(experiments__experiment_id=2**62, runs__experiment_id=2**62),
            stored.rows(experiments__name=NAME, experiments__lifecycle_stage="deleted"),
        ),
    ),
    "store-schema": Reader(
        stored.store_schema, (b"", b"CREATE TABLE more (x)"), tuple(text.encode() for text in stored.SCHEMAS)
    ),
}

"""One reader in a process of its own: `python -m fuzz.worker READER SECONDS SEED FOLDER mutated|guided`.

The last line of stdout is JSON. `guided` needs atheris, which follows what code each file reaches; it ends at the
first crash, and libFuzzer says the rest.
"""

import hashlib
import json
import random
import re
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOM = 3 << 30  # bytes of address space beyond those of the libraries: the machine survives what is found
MOST_KEPT = 2_000
SLOWED = 30  # seconds of patience: code that atheris follows runs many times slower


def main() -> None:
    name, seconds, seed, folder, how = sys.argv[1:]
    if how == "guided":
        _guided(name, float(seconds), int(seed), Path(folder))
    else:
        print(json.dumps(_mutated(name, float(seconds), int(seed), Path(folder))))


def _mutated(name: str, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    from fuzz import targets, watch
    from fuzz.mutate import mutated, tokens

    reader, draw = targets.READERS[name], random.Random(seed)
    work = folder / "work"
    work.mkdir()
    corpus, words, seen = list(reader.corpus), tokens(reader.corpus), set[str]()
    crashes: dict[str, str] = {}
    hangs = executions = 0
    queue = list(corpus)
    before, ends = _warm(reader.target, queue[:1], work), time.monotonic() + seconds
    while queue or time.monotonic() < ends:
        data = queue.pop() if queue else mutated(draw, corpus, words)
        executions += 1
        try:
            answer = watch.read(reader.target, data, work)
        except watch.Hang:
            hangs += 1
            _keep(folder, data)
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            key = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:200]}"
            crashes.setdefault(re.sub(r"\d+", "0", key), _keep(folder, data))
        else:
            feature = f"{answer}{re.sub(rb'[0-9]+', b'0', data[:30])!r}" if answer == "value" else answer
            if feature not in seen and len(corpus) < MOST_KEPT:
                seen.add(feature)
                corpus.append(data)
    return {
        "executions": executions,
        "crashes": [f"{key} ({path})" for key, path in crashes.items()],
        "hangs": hangs,
        "peak_mb": (_peak() - before) >> 20,
    }


def _warm(target: Any, files: list[bytes], work: Path) -> int:
    """Load what the first call loads, then limit memory; the peak so far in bytes."""
    from fuzz import watch

    for data in files:
        try:
            watch.read(target, data, work, patience=60)
        except Exception as error:
            print(f"warming up: {error!r}", file=sys.stderr)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    return _peak()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _keep(folder: Path, data: bytes) -> str:
    path = folder / f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return str(path)


def _longest(reader: Any) -> int:
    """Bytes of a file at most: a right one is never cut off."""
    return max(20_000, *map(len, reader.valid))


def _guided(name: str, seconds: float, seed: int, folder: Path) -> None:
    import atheris

    import rewindctl.registry.store.connect  # noqa: F401 (heavy libraries stay as they are: only ours and PyYAML are followed)

    for loaded in [key for key in sys.modules if key.partition(".")[0] in ("rewindctl", "yaml")]:
        del sys.modules[loaded]
    with atheris.instrument_imports(include=["rewindctl", "yaml"]):
        from fuzz import targets
    from fuzz import watch

    reader, work, corpus = targets.READERS[name], folder / "work", folder / "corpus"
    work.mkdir()
    corpus.mkdir()
    for index, data in enumerate(reader.corpus):
        (corpus / str(index)).write_bytes(data)
    print(f"baseline_mb: {_warm(reader.target, list(reader.valid[:1]), work) >> 20}", file=sys.stderr, flush=True)
    options = [f"-max_total_time={max(1, int(seconds))}", f"-seed={seed + 1}", "-handle_alrm=0", "-rss_limit_mb=8192"]
    options += ["-print_final_stats=1", f"-max_len={_longest(reader)}", f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup(["fuzz", *options], lambda data: watch.read(reader.target, data, work, SLOWED) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Which runs travel: the finished ones that are wanted, with all their ancestors, parents first."""

from collections.abc import Callable, Collection, Iterable

from rewindctl.errors import UsageError
from rewindctl.registry.records import PARENT_KINDS, WEIGHTS_FROM, RunRecord
from rewindctl.registry.registry import Registry


def matching(
    kinds: Collection[str] = (),
    tags: Iterable[tuple[str, str]] = (),
    run_ids: Collection[str] = (),
    groups: Collection[str] = (),
) -> Callable[[RunRecord], bool]:
    """Whether a run is of one of the kinds, has the tags, is one of the runs and of one of the groups (see
    `Spec.group`); what is empty asks for nothing.

    A tag key without a dot is one of ours: `model` is `rewindctl.model`. Of a key's several values one is enough.
    """
    wanted: dict[str, set[str]] = {}
    for key, value in tags:
        wanted.setdefault(key if "." in key else f"rewindctl.{key}", set()).add(value)

    def matches(run: RunRecord) -> bool:
        return (
            (not kinds or run.kind in kinds)
            and (not run_ids or run.run_id in run_ids)
            and (not groups or run.group in groups)
            and all(run.tags.get(key) in values for key, values in wanted.items())
        )

    return matches


def select(
    registry: Registry,
    wanted: Callable[[RunRecord], bool],
    extra: Iterable[RunRecord] = (),
    *,
    descendants: bool = False,
) -> list[RunRecord]:
    """The finished runs of the experiment, and of `extra` (from others), that are wanted, with their ancestors.

    With `descendants` also every finished run made from a wanted one. Raises: UsageError when there are none.
    """
    pool = {run.run_id: run for run in (*registry.search(), *extra) if run.finished and run.kind in PARENT_KINDS}
    chosen = {run_id: run for run_id, run in pool.items() if wanted(run)}
    if not chosen:
        raise UsageError("no finished run is of that choice", "list the runs: rewindctl list")
    if descendants:
        chosen |= _descendants(chosen, pool)
    known = dict(pool)
    depth: dict[str, int] = {}
    for run in list(chosen.values()):
        _add_ancestors(registry, run, chosen, known, depth)
    for run in list(chosen.values()):
        source = run.tags.get(WEIGHTS_FROM, "").partition("@")[0]
        if source and source not in chosen:  # a replay whose state it started from, which is no ancestor of it
            _add_ancestors(registry, known.get(source) or registry.get(source), chosen, known, depth)
    return sorted(chosen.values(), key=lambda run: (depth[run.run_id], run.kind != "replay", run.started, run.run_id))


def _descendants(chosen: dict[str, RunRecord], pool: dict[str, RunRecord]) -> dict[str, RunRecord]:
    children: dict[str, list[RunRecord]] = {}
    for run in pool.values():
        children.setdefault(run.parent_id or "", []).append(run)
    found: dict[str, RunRecord] = {}
    stack = list(chosen)
    while stack:
        for child in children.get(stack.pop(), []):
            if child.run_id not in found:
                found[child.run_id] = child
                stack.append(child.run_id)
    return found


def _add_ancestors(
    registry: Registry,
    run: RunRecord,
    chosen: dict[str, RunRecord],
    known: dict[str, RunRecord],
    depth: dict[str, int],
) -> None:
    """Raises: RegistryError when the lineage leads nowhere, UsageError when an ancestor is not finished."""
    chain = registry.lineage(run, known)
    for level, link in enumerate(chain):
        if not link.finished:
            raise UsageError(f"run {link.run_id}, an ancestor of {run.run_id}, is {link.status}", "run it again first")
        chosen[link.run_id] = known[link.run_id] = link
        depth[link.run_id] = level

"""A store that was copied or moved: read as ever, and nothing written, removed or collected in anybody's files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Answer, Chain, Cli
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from moved import AWAY, at, begin, cp, cp_beside, edit, mv, unbind, world

from rewindctl.pipeline.train_run import RunObserver
from rewindctl.registry import Registry
from rewindctl.registry.bundle import export_bundle
from rewindctl.registry.deleting.disk import unreferenced_folders
from rewindctl.registry.delivery.outbox import Outbox, kept_folder
from rewindctl.registry.records import STORAGE
from rewindctl.registry.roots.binding import MARKER, ROOT, Binding, MisplacedError, read_marker
from rewindctl.registry.runs.opening import open_report
from rewindctl.registry.runs.writer import resume_file
from rewindctl.registry.store.address import local_path
from rewindctl.registry.store.connect import connect
from rewindctl.system import processes
from rewindctl.training.records import Evaluation

MEND = "rewindctl registry relocate"


def refused(store: Path) -> str:
    """The error of making a run in a store."""
    with pytest.raises(MisplacedError) as caught:
        begin(store)
    assert MEND in caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("how", ["cp -r", "mv", "the database alone, beside", "the files behind a link"])
def test_nothing_is_written_removed_or_collected_where_files_are_not_the_stores_own(
    copied_chain: Chain, cli: Cli, tmp_path: Path, how: str
) -> None:
    chain = copied_chain
    bundle = tmp_path / "one.bundle"
    registry = chain.registry()
    export_bundle(registry, registry.lineage(registry.get(chain.lr_rewind)), bundle, True)
    assert cli("remove", chain.lr_rewind, *at(chain.store)).code == 0
    begun = begin(chain.store)
    for run in (begun, chain.finetune):
        resume_file(run).parent.mkdir(parents=True, exist_ok=True)
        resume_file(run).write_bytes(b"point")
    (chain.store.parent / "mlruns" / "rewindctl" / ("0" * 32)).mkdir()
    store = AWAY[how](chain.store, tmp_path / "elsewhere")
    before = world(tmp_path)
    for line in (
        ("remove", chain.finetune, "--yes"),
        ("gc", "--yes", "--unfinished", "--orphans", "--unreferenced"),
        ("gc",),
        ("train-dense", *TINY, "--seed", "7"),
        ("prune", "--parent", chain.dense, "--compression", "3"),
        ("registry", "import", str(bundle), "--experiment", "rewindctl"),
        ("tune", "--parent", chain.prune, "--trials", "1"),
        ("init", "--experiment", "another"),
    ):
        answer = cli(*line, *at(store))
        assert (answer.code, answer.out) == (1, ""), line
        assert MEND in answer.err, line
    assert world(tmp_path) == before


@pytest.mark.parametrize("how", ["cp -r", "the database alone"])
def test_a_copy_is_read_as_ever_and_says_what_it_is(copied_chain: Chain, cli: Cli, tmp_path: Path, how: str) -> None:
    store = AWAY[how](copied_chain.store, tmp_path / "elsewhere")
    before = world(tmp_path)
    for line in (("list",), ("show", copied_chain.finetune), ("verify", "--all"), ("lineage", copied_chain.finetune)):
        here, there = cli(*line, *at(store)), cli(*line, *at(copied_chain.store))
        assert (here.code, here.out) == (there.code, there.out) == (0, here.out)
    answer = cli("doctor", *at(store))
    assert f"which belongs to the store {copied_chain.store}" in answer.out
    assert MEND in answer.out
    assert world(tmp_path) == before


def test_of_a_moved_store_it_is_said_why_its_files_are_missing(copied_chain: Chain, cli: Cli, tmp_path: Path) -> None:
    store = mv(copied_chain.store, tmp_path / "elsewhere")
    for line in (("verify", "--all"), ("prune", "--parent", copied_chain.dense, "--compression", "3")):
        answer = cli(*line, *at(store))
        assert answer.code == 1
        assert MEND in answer.err


def test_a_process_whose_store_is_moved_away_writes_nothing_to_the_old_place(
    copied_chain: Chain, tmp_path: Path
) -> None:
    registry = copied_chain.registry()
    writer = open_report(registry.client, registry.experiment_id, "begun", "")
    store = mv(copied_chain.store, tmp_path / "elsewhere")
    writer.write_json("page.json", {})  # kept: the run may go on
    with pytest.raises(MisplacedError, match="no longer exists"):
        registry.client.set_tag(writer.run_id, "key", "value")
    writer.fail(KeyboardInterrupt())
    assert not copied_chain.store.parent.exists()
    assert Registry(f"sqlite:///{store}").get(writer.run_id).status == "RUNNING"


LINE = ("train-dense", *TINY, "--seed", "5", "--checkpoint-every", "0")


def train_and(then: Callable[[], object], cli: Cli, monkeypatch: pytest.MonkeyPatch, *line: str) -> Answer:
    """A training, and what is done to its store at its last evaluation."""
    evaluated = RunObserver.evaluated

    def hooked(self: RunObserver, evaluation: Evaluation) -> None:
        if evaluation.iteration == 24:
            self.background.wait()
            then()
        evaluated(self, evaluation)

    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "evaluated", hooked)
        answer = cli(*LINE, *line)
    _artifact_repos_cache.clear()  # MLflow's, of where each run's files were: the next command is another process
    return answer


@pytest.mark.parametrize("command", [("recover",), LINE])
def test_a_training_whose_store_is_moved_away_is_kept_and_brought_to_where_it_is(
    copied_chain: Chain, cli: Cli, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, target = copied_chain.store, tmp_path / "elsewhere"
    answer = train_and(lambda: mv(old, target), cli, monkeypatch, *at(old))
    store = target / old.name
    assert (answer.code, answer.out) == (1, "")
    assert "no longer exists" in answer.err
    assert MEND in answer.err
    (folder,) = kept_folder().iterdir()
    unmoved = cli("recover", *at(old))
    assert (unmoved.code, old.exists(), Outbox(folder).complete) == (1, False, True)
    assert "give its --tracking-uri" in unmoved.err
    assert MEND in cli("recover", *at(store)).err
    assert cli("registry", "relocate", *at(store)).code == 0
    done = cli(*command, *at(store))
    assert (done.code, done.run_id, old.exists(), folder.exists()) == (0, folder.name, False, False), done.err
    assert cli("verify", folder.name, *at(store)).code == 0


def test_a_marker_that_cannot_be_read_for_a_moment_costs_a_training_nothing(
    copied_chain: Chain, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = copied_chain.store.parent / "mlruns" / "rewindctl" / MARKER
    whole = marker.read_bytes()
    answer = train_and(lambda: marker.write_bytes(b"{"), cli, monkeypatch, *at(copied_chain.store))
    assert (answer.code, MARKER in answer.err) == (1, True)
    marker.write_bytes(whole)
    (folder,) = kept_folder().iterdir()
    done = cli(*LINE, *at(copied_chain.store))
    assert (done.code, done.run_id) == (0, folder.name), done.err


def test_a_run_that_fails_of_a_moved_store_keeps_its_resume_point(copied_chain: Chain, tmp_path: Path) -> None:
    registry = copied_chain.registry()
    writer = open_report(registry.client, registry.experiment_id, "begun", "")
    writer._heartbeat.beaten = processes.clock()
    writer.resume_file.parent.mkdir(parents=True, exist_ok=True)
    writer.resume_file.write_bytes(b"point")
    mv(copied_chain.store, tmp_path / "elsewhere")
    with pytest.raises(MisplacedError) as caught:
        registry.client.set_tag(writer.run_id, "key", "value")
    writer.fail(caught.value)
    assert writer.resume_file.read_bytes() == b"point"


def test_a_store_is_the_same_by_whatever_links_lead_to_it(copied_chain: Chain, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "folder").symlink_to(copied_chain.store.parent)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "file.db").symlink_to(copied_chain.store)
    for store in (tmp_path / "folder" / "mlflow.db", tmp_path / "links" / "file.db", copied_chain.store):
        begin(store)
    assert cli("remove", copied_chain.finetune, *at(tmp_path / "folder" / "mlflow.db")).code == 0
    assert cli("verify", "--all", *at(copied_chain.store)).code == 0


def test_a_root_that_is_behind_a_link_is_the_stores(store: Path, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (store.parent / "mlruns").symlink_to(tmp_path / "large")
    begin(store)
    begin(store)
    assert read_marker(tmp_path / "large" / "rewindctl") is not None


def test_a_new_store_and_its_root_name_each_other(store: Path) -> None:
    run = Registry(f"sqlite:///{store}").get(begin(store))
    folder = local_path(run.artifact_uri)
    assert folder is not None
    marker = read_marker(folder.parents[1])
    assert marker is not None
    assert marker.database == str(store)
    (home,) = Binding(store).homes()
    assert home.mark == marker.id


def test_two_stores_of_a_folder_have_a_root_each(store: Path, empty_store: Path) -> None:
    other = Path(shutil.copy(empty_store, store.with_name("other.db")))
    for path in (store, other, store, other):
        begin(path)
    roots = [Binding(path).homes()[0].root for path in (store, other)]
    assert roots[0] == store.parent / "mlruns" / "rewindctl"
    assert roots[1].parent == roots[0].parent
    assert roots[0] != roots[1]


def test_experiments_whose_names_look_alike_have_folders_of_their_own(store: Path) -> None:
    registries = [Registry(f"sqlite:///{store}", name) for name in ("a b", "a_b")]
    for registry in (*registries, *registries):
        open_report(registry.client, registry.experiment_id, "begun", "").fail(KeyboardInterrupt())
    assert len({home.root for home in Binding(store).homes()}) == 2


def test_stores_that_share_a_folder_of_mlflow_are_no_copies_of_each_other(
    store: Path, empty_store: Path, tmp_path: Path
) -> None:
    """MLflow gives its own experiments `mlruns` of the folder where it is started, whatever the store."""
    other = tmp_path / "other" / "mlflow.db"
    other.parent.mkdir()
    shutil.copy(empty_store, other)
    for path in (store, other):
        edit(path, "UPDATE experiments SET artifact_location = ? WHERE name = 'Default'", f"file://{tmp_path}/mlruns/0")
    for path in (store, other, store, other):
        registry = Registry(f"sqlite:///{path}", "Default")
        open_report(registry.client, registry.experiment_id, "begun", "").fail(KeyboardInterrupt())
    assert (unreferenced_folders(registry), len(Registry(f"sqlite:///{store}", "Default").search())) == ([], 2)


def test_a_store_that_is_made_anew_at_its_old_place_goes_on_there(store: Path, empty_store: Path) -> None:
    begin(store)
    shutil.copy(empty_store, store)
    begin(store)
    assert [home.root.name for home in Binding(store).homes()] == ["rewindctl"]


# Stores of earlier versions


def test_an_earlier_store_is_bound_by_the_first_that_writes_and_by_no_reader(
    copied_chain: Chain, cli: Cli, tmp_path: Path
) -> None:
    unbind(copied_chain.store)
    before = world(tmp_path)
    for line in (("list",), ("verify", "--all"), ("gc",), ("doctor",)):
        assert cli(*line, *at(copied_chain.store)).code == 0
    assert world(tmp_path) == before
    begin(copied_chain.store)
    copy = cp(copied_chain.store, tmp_path / "copy")
    assert f"belongs to the store {copied_chain.store}" in refused(copy)


def test_a_binding_that_was_cut_off_is_ended_by_the_next_that_writes(copied_chain: Chain) -> None:
    edit(copied_chain.store, "DELETE FROM experiment_tags WHERE key = ?", ROOT)
    marker = copied_chain.store.parent / "mlruns" / "rewindctl" / MARKER
    before = marker.read_bytes()
    begin(copied_chain.store)
    assert marker.read_bytes() == before
    marker.unlink()
    begin(copied_chain.store)
    assert marker.read_bytes() == before


@pytest.mark.parametrize("how", AWAY)
def test_an_earlier_store_that_was_copied_or_moved_takes_nothing_of_the_original(
    copied_chain: Chain, tmp_path: Path, how: str
) -> None:
    unbind(copied_chain.store)
    store = AWAY[how](copied_chain.store, tmp_path / "elsewhere")
    if how in ("the database renamed", "the database moved away from its files"):
        begin(store)  # nobody else's: it goes on with its files
        return
    before = world(tmp_path)
    refused(store)
    assert world(tmp_path) == before


def test_a_backup_beside_an_earlier_store_is_to_be_moved_away(copied_chain: Chain, tmp_path: Path) -> None:
    unbind(copied_chain.store)
    backup = cp_beside(copied_chain.store, tmp_path)
    with pytest.raises(MisplacedError) as caught:
        begin(copied_chain.store)
    assert f"move {backup.name} to another folder" in caught.value.hint
    (tmp_path / "backups").mkdir()
    shutil.move(backup, tmp_path / "backups")
    begin(copied_chain.store)
    assert "belongs to the store" in refused(tmp_path / "backups" / backup.name)


def test_a_backup_beside_a_bound_store_disturbs_nobody(copied_chain: Chain, tmp_path: Path) -> None:
    cp_beside(copied_chain.store, tmp_path)
    begin(copied_chain.store)


# What anyone may have written


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"id": "x", "database": "/x"}', '{"id": "%s", "database": "x"}' % ("0" * 32), "[" * 9_000],
)
def test_a_marker_that_is_none_is_named_and_nothing_written(copied_chain: Chain, text: str) -> None:
    marker = copied_chain.store.parent / "mlruns" / "rewindctl" / MARKER
    marker.write_text(text)
    assert MARKER in refused(copied_chain.store)
    assert marker.read_text() == text


def test_a_server_and_experiments_with_files_elsewhere_are_not_bound(store: Path) -> None:
    client = connect(f"sqlite:///{store}")
    number = client.create_experiment("far", "s3://bucket/far")
    registry = Registry(f"sqlite:///{store}", "far")
    assert registry.experiment_id == number
    assert Binding(store).homes() == []
    client.create_run(number)
    assert STORAGE not in client.get_experiment(number).tags

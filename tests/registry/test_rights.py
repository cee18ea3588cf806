"""Two users at one server: who lacks a right is told which, and loses nothing for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY, Answer, Cli
from servers import AuthServer

from rewindctl.registry import Registry
from rewindctl.registry.models import dense_model
from rewindctl.registry.store import failures

MODEL = dense_model("resnet8", "digits")


@pytest.fixture(scope="module")
def users(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthServer]:
    pytest.importorskip("flask_wtf", reason="Flask-WTF is not installed: MLflow's basic-auth server needs it")
    folder = tmp_path_factory.mktemp("users")
    (folder / "server.db").write_bytes(empty_store.read_bytes())
    server = AuthServer(folder, f"sqlite:///{folder / 'server.db'}").start()
    try:
        server.wait()
        for user in ("alice", "bob", "carol"):
            server.add(user)
        yield server
    finally:
        server.stop()


def refused(answer: Answer, user: str, what: str, right: str) -> None:
    """One line that names the user and what they may not do, one that names the right."""
    *_, message, hint = answer.err.splitlines()
    assert (answer.code, answer.out) == (1, ""), answer
    assert f"user {user!r} may not {what}" in message
    assert right in hint
    assert AuthServer.PASSWORD not in answer.err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_user_without_a_right_loses_nothing_and_is_told_which(users: AuthServer, cli: Cli) -> None:
    def by(user: str, *line: str, experiment: str = "shared") -> Answer:
        return cli(*line, "--tracking-uri", users.of(user), "--experiment", experiment)

    dense = by("alice", "train-dense", *TINY, "--seed", "0").run_id
    alice = Registry(users.of("alice"), "shared")
    users.grant("bob", "experiment", alice.experiment_id, "EDIT")

    # No EDIT on the experiment: at once
    refused(by("carol", "train-dense", *TINY, "--seed", "1"), "carol", "edit experiment 'shared'", "EDIT")
    refused(by("carol", "prune", "--parent", dense, "--compression", "5"), "carol", "edit experiment 'shared'", "EDIT")
    assert by("carol", "list").out.startswith(dense)

    # EDIT on the experiment, READ on the model: finished, not registered, said before and after
    trained = by("bob", "train-dense", *TINY, "--seed", "1")
    assert trained.code == 0, trained.err
    assert trained.err.startswith(f"note: user 'bob' may not edit registered model '{MODEL}'")
    assert (
        f"note: run {trained.run_id} is finished, but not registered as a version of {MODEL}: user 'bob' may not"
        in trained.err
    )
    assert "ask its owner or an administrator for EDIT; then rewindctl recover" in trained.err
    again = by("bob", "train-dense", *TINY, "--seed", "1")
    assert (again.code, again.run_id) == (0, trained.run_id)

    prune = by("bob", "prune", "--parent", dense, "--compression", "5").run_id
    retrain = by("bob", "retrain", "--parent", prune, "--method", "lr_rewind").run_id
    assert by("bob", "compare").code == 0
    assert by("bob", "verify", retrain).code == 0
    before = {run.run_id: run.status for run in alice.search()}
    assert before == dict.fromkeys((dense, trained.run_id, prune, retrain), "FINISHED")

    # What one may not remove stays as it was
    assert by("bob", "remove", retrain, "--dry-run").code == 0  # who only lists needs no right
    for line in (("remove", dense, "--recursive", "--yes"), ("remove", retrain)):
        refused(by("bob", *line), "bob", "delete from experiment 'shared'", "MANAGE")
    assert {run.run_id: run.status for run in alice.search()} == before
    assert by("carol", "verify", dense).code == 0

    # The version is made later, by whoever may
    refused(by("bob", "recover"), "bob", f"edit registered model '{MODEL}'", "EDIT")
    users.grant("carol", "registered_model", MODEL, "EDIT")
    recovered = by("carol", "recover")
    assert (recovered.code, recovered.run_id) == (0, trained.run_id)
    assert alice.resolve(f"models:/{MODEL}@seed-1").run_id == trained.run_id

    # An import is there as a whole, registered or not
    assert by("alice", "registry", "export", "all.bundle").code == 0
    imported = by("bob", "registry", "import", "all.bundle", experiment="of-bob")
    assert (imported.code, len(imported.out.splitlines())) == (0, 4), imported.err
    assert imported.err.count(f"is finished, but not registered as a version of {MODEL}: user 'bob' may not edit") == 2

    # No READ on the parent's experiment
    users.grant("carol", "experiment", alice.experiment_id, "DENY")
    for line in (("list",), ("compare",), ("registry", "export", "hers.bundle")):
        refused(by("carol", *line), "carol", "read experiment 'shared'", "READ")
    pruned = by("carol", "prune", "--parent", dense, "--compression", "5", experiment="of-carol")
    refused(pruned, "carol", f"read the experiment of run {dense}", "READ")

    # MANAGE on the experiment, and not on the model: the run goes, its version is told of
    users.grant("bob", "experiment", alice.experiment_id, "MANAGE")
    removed = by("bob", "remove", trained.run_id)
    refused(removed, "bob", f"delete from registered model '{MODEL}'", "MANAGE")
    assert f"run {trained.run_id} is removed, but not its version" in removed.err
    assert by("alice", "prune", "--parent", f"models:/{MODEL}@seed-1", "--sparsity", "0.5").code == 2

    # Nobody
    wrong = cli("list", "--tracking-uri", users.of("alice").replace(AuthServer.PASSWORD, "another-word"))
    assert (wrong.code, "rejects user 'alice'" in wrong.err, "another-word" in wrong.err) == (1, True, False)
    assert "MLFLOW_TRACKING_USERNAME" in cli("list", "--tracking-uri", users.uri).err


def test_the_user_is_that_of_the_credentials_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failures.user_of("http://me%40home:s3cret@host") == "me@home"
    assert failures.user_of("sqlite:///mlflow.db") == ""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "other")
    assert failures.user_of("http://host") == "other"
    assert failures.user_of("http://me:s3cret@host") == "me"

"""Wrong input, in a table: exit code, the words of its one error line, of its one hint line, and nothing done."""

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Answer, Chain, Cli

Case = tuple[str, int, str, str]  # command line, exit code, words of the error line, words of the hint ("|" between)

DENSE = "train-dense --model resnet8 --dataset digits"
PRUNE = "prune --parent abcdef"
RETRAIN = "retrain --parent abcdef"
ITERATE = "iterate --parent abcdef --method lr_rewind"

READING = ("list", "show abcdef", "lineage abcdef", "compare", "verify --all", "gc", "ui", "remove abcdef")
READING += ("registry export all.bundle",)

# Refused before a store is opened, so that none is made.
WITHOUT_STORE: list[Case] = [
    # names
    ("train-dense --model alexnet --dataset digits", 2, "unknown model 'alexnet'", "known: |resnet|wrn"),
    ("train-dense --model resnet21 --dataset digits", 2, "resnet21|6n+2", "resnet20 and resnet26"),
    ("train-dense --model resnet2 --dataset digits", 2, "resnet2|6n+2", "resnet8"),
    ("train-dense --model wrn17_8 --dataset digits", 2, "wrn17_8|6n+4", "16 and 22"),
    ("train-dense --model wrn16_0 --dataset digits", 2, "wrn16_0 has width 0", "at least 1"),
    ("train-dense --model '' --dataset digits", 2, "unknown model ''", "known: "),
    ("train-dense --model resnet8 --dataset mnist", 2, "unknown data set 'mnist'", "known: cifar10, cifar100, digits"),
    ("train-dense --model resnet8 --dataset digit", 2, "'digit': did you mean 'digits'?", "known: cifar10"),
    (f"{DENSE} --recipe resnt", 2, "unknown recipe 'resnt': did you mean 'resnet'?", "known: digits, resnet, wrn"),
    (f"{DENSE} --device gpu", 2, "unknown device 'gpu'", "known: auto, cpu, cuda"),
    (f"{DENSE} --device cuda:x", 2, "unknown device 'cuda:x'", "known: auto, cpu, cuda"),
    (f"{DENSE} --device cuda:99", 2, "device 'cuda:99' is not there", "--device cpu"),
    (
        f"{PRUNE} --sparsity 0.5 --criterion magnitud",
        2,
        "'magnitud': did you mean 'magnitude'?",
        "known: gradient_magnitude",
    ),
    (f"{PRUNE} --sparsity 0.5 --criterion taylor", 2, "unknown criterion 'taylor'", "known: gradient_magnitude"),
    (f"{RETRAIN} --method weight_rewnd", 2, "did you mean 'weight_rewind'?", "known: finetune, lr_rewind, rewind"),
    (f"{RETRAIN} --method ft", 2, "unknown method 'ft'", "known: finetune, lr_rewind, rewind, weight_rewind"),
    ("iterate --parent abcdef --method ft", 2, "unknown method 'ft'", "known: finetune, lr_rewind, rewind"),
    ("compare --table tabel5", 2, "unknown table 'tabel5': did you mean 'table5'?", "known: cells, results, table1"),
    ("compare --figure fig9", 2, "unknown figure 'fig9': did you mean 'fig6'?", "known: curves, fig1"),
    ("compare --format markdwn", 2, "'markdwn': did you mean 'markdown'?", "known: csv, json, latex, markdown, text"),
    ("compare --json --format csv", 2, "both --json and --format csv are given", "give one of the two"),
    ("lineage abcdef --json --format mermaid", 2, "both --json and --format mermaid", "give one of the two"),
    ("compare --accuracy worst", 2, "--accuracy|'worst'|'final', 'best'", "rewindctl compare --help"),
    (f"{PRUNE} --sparsity 0.5 --structure blocks", 2, "--structure|'blocks'|'unstructured', 'structured'", "--help"),
    ("list --kind masks", 2, "--kind|'masks'|'dense', 'prune', 'retrain'", "rewindctl list --help"),
    # who reads makes no store
    *((line, 1, "there is no store sqlite:///|mlflow.db", "the first run makes it|--tracking-uri") for line in READING),
    ("list --tracking-uri sqlite:///no/such/folder/m.db", 1, "there is no store", "--tracking-uri"),
    # targets
    (f"{PRUNE} --sparsity 0", 2, "--sparsity 0 is outside (0, 1)", "such as 0.893"),
    (f"{PRUNE} --sparsity 1", 2, "--sparsity 1 is outside (0, 1)", "such as 0.893"),
    (f"{PRUNE} --sparsity -0.1", 2, "--sparsity -0.1 is outside (0, 1)", "such as 0.893"),
    (f"{PRUNE} --sparsity 1.5", 2, "--sparsity 1.5 is outside (0, 1)", "such as 0.893"),
    (f"{PRUNE} --sparsity nan", 2, "--sparsity nan is outside (0, 1)", "such as 0.893"),
    (f"{PRUNE} --sparsity half", 2, "--sparsity|'half'", "rewindctl prune --help"),
    (f"{PRUNE} --compression 1", 2, "--compression 1 is not above 1", "such as 9.35"),
    (f"{PRUNE} --compression 0.5", 2, "--compression 0.5 is not above 1", "such as 9.35"),
    (f"{PRUNE} --compression inf", 2, "--compression inf is not", "such as 9.35"),
    (f"{PRUNE} --compression nan", 2, "--compression nan is not", "such as 9.35"),
    (f"{PRUNE} --sparsity 0.5 --compression 2", 2, "both --sparsity 0.5 and --compression 2", "give one of the two"),
    (PRUNE, 2, "neither --sparsity nor --compression is given", "give one"),
    (f"{RETRAIN} --method lr_rewind --sparsity 1.5", 2, "--sparsity 1.5 is outside (0, 1)", "such as 0.893"),
    (f"{RETRAIN} --method lr_rewind --sparsity 0.5 --compression 2", 2, "both --sparsity 0.5", "give one of the two"),
    (
        f"{PRUNE} --sparsity 0.5 --channel-norm remove",
        2,
        "--channel-norm remove has no meaning",
        "--structure structured",
    ),
    (f"{RETRAIN} --method lr_rewind --scope layerwise", 2, "--scope layerwise has no meaning", "--sparsity"),
    (f"{RETRAIN} --method lr_rewind --structure structured", 2, "--structure structured has no meaning", "--sparsity"),
    # seeds
    (f"{DENSE} --seeds a", 2, "--seeds 'a' is not a list of seeds", "write 0-4"),
    (f"{DENSE} --seeds 3-1", 2, "--seeds '3-1' is not a range", "smallest first"),
    (f"{DENSE} --seeds 1-", 2, "--seeds '1-' is not a list of seeds", "write 0-4"),
    (f"{DENSE} --seeds -1", 2, "--seeds '-1' is not a list of seeds", "write 0-4"),
    (f"{DENSE} --seeds ''", 2, "--seeds '' is not a list of seeds", "write 0-4"),
    (f"{DENSE} --seeds 0,,2", 2, "--seeds '0,,2' is not a list of seeds", "write 0-4"),
    (f"{DENSE} --seeds 0-99999", 2, "--seeds '0-99999': more than 10,000 seeds", "write 0-4"),
    (f"{DENSE} --seeds 0,4294967296", 2, "--seeds '4294967296': a seed is at most 4294967295", "write 0-4"),
    (f"{DENSE} --seed -1", 2, "--seed -1 is outside 0 to 4294967295", "one number"),
    (f"{DENSE} --seed 4294967296", 2, "--seed 4294967296 is outside 0 to 4294967295", "one number"),
    (f"{DENSE} --seed 1 --seeds 0-2", 2, "both --seed 1 and --seeds 0-2 are given", "give one of the two"),
    # numbers of a dense run
    (f"{DENSE} --iterations 0", 2, "--iterations 0 is not positive", "such as 1000"),
    (f"{DENSE} --iterations -5", 2, "--iterations -5 is not positive", "such as 1000"),
    (f"{DENSE} --iterations 1.5", 2, "--iterations|'1.5'", "rewindctl train-dense --help"),
    (f"{DENSE} --batch-size 0", 2, "--batch-size 0 is not positive", "such as 128"),
    (
        f"{DENSE} --batch-size 1001",
        2,
        "--batch-size 1001 is larger than the 1,000 training images",
        "--batch-size 1000 or less",
    ),
    (f"{DENSE} --lr 0", 2, "--lr 0.0 is not a positive number", "such as 0.1"),
    (f"{DENSE} --lr nan", 2, "--lr nan is not a positive number", "such as 0.1"),
    (f"{DENSE} --evaluate-every 0", 2, "--evaluate-every 0 is not positive", "number of iterations"),
    (f"{DENSE} --iterations 12 --rewind-points 13", 2, "rewind point 13 is outside the run's 12", "from 0 to 12"),
    (f"{DENSE} --rewind-points 1,b", 2, "--rewind-points '1,b' is not a list of iterations", "write 0,500,2000"),
    (f"{DENSE} --rewind-points -1", 2, "--rewind-points '-1' is not a list of iterations", "write 0,500,2000"),
    (f"{DENSE} --rewind-points ''", 2, "--rewind-points '' is not a list of iterations", "write 0,500,2000"),
    # walks and demos
    (f"{ITERATE} --step 0", 2, "--step 0.0 is outside (0, 1)", "such as 0.2"),
    (f"{ITERATE} --step 1", 2, "--step 1.0 is outside (0, 1)", "such as 0.2"),
    (f"{ITERATE} --step nan", 2, "--step nan is outside (0, 1)", "such as 0.2"),
    (f"{ITERATE} --until 1", 2, "--until 1.0 is outside (0, 1)", "such as 0.2"),
    (f"{ITERATE} --until -0.5", 2, "--until -0.5 is outside (0, 1)", "such as 0.2"),
    (f"{ITERATE} --step 0.001", 2, "--step 0.001 needs over 200 levels", "larger step"),
    (f"{ITERATE} --channel-norm remove", 2, "--channel-norm remove has no meaning", "--structure structured"),
    ("demo --seeds x", 2, "--seeds 'x' is not a list of seeds", "write 0-4"),
    ("demo --compressions 20,0.5", 2, "--compression 0.5 is not above 1", "such as 9.35"),
    ("demo --compressions many", 2, "--compressions 'many' is not a list of numbers", "write 20,50"),
    ("demo --iterations 0", 2, "--iterations 0 is not positive", "such as 1000"),
    ("demo --iterations 12 --k 13", 2, "13|12", ""),
    # stores
    ("list --tracking-uri http://127.0.0.1:1", 1, "http://127.0.0.1:1 does not answer", "mlflow server"),
    (f"{PRUNE} --sparsity 0.5 --tracking-uri http://127.0.0.1:1", 1, "127.0.0.1:1 does not answer", "--tracking-uri"),
    (
        "list --tracking-uri http://user:s3cret@127.0.0.1:1",
        1,
        "http://***@127.0.0.1:1 does not answer",
        "mlflow server",
    ),
    ("list --tracking-uri runs", 1, "tracking URI 'runs' has no scheme", "sqlite:///runs/mlflow.db"),
    ("list --tracking-uri carrier://pigeon", 1, "carrier://pigeon", "--tracking-uri"),
    (f"{DENSE} --tracking-uri sqlite:///file/mlflow.db", 1, "file/mlflow.db cannot be written", "--tracking-uri"),
    ("list --tracking-uri sqlite:///file", 1, "file cannot be used as an MLflow store", "--tracking-uri"),
    ("ui --port 0", 2, "--port|0", "rewindctl ui --help"),
    ("ui --port 65536", 2, "--port|65536", "rewindctl ui --help"),
    # the command line itself
    ("trian-dense", 2, "trian-dense", "rewindctl --help"),
    ("train-dense --modle resnet8", 2, "--modle", "rewindctl train-dense --help"),
    ("train-dense --dataset digits", 2, "--model", "rewindctl train-dense --help"),
    ("train-dense --model resnet8", 2, "--dataset", "rewindctl train-dense --help"),
    ("train-dense --model", 2, "--model", "--help"),
    ("prune --sparsity 0.5", 2, "--parent", "rewindctl prune --help"),
    ("retrain --parent abcdef", 2, "--method", "rewindctl retrain --help"),
    ("retrain --method finetune", 2, "--parent", "rewindctl retrain --help"),
    ("iterate --method finetune", 2, "--parent", "rewindctl iterate --help"),
    ("show", 2, "argument|run", "rewindctl show --help"),
    ("lineage", 2, "argument|run", "rewindctl lineage --help"),
    ("show abcdef extra", 2, "extra", "rewindctl show --help"),
    ("--no-such-option", 2, "--no-such-option", "rewindctl --help"),
    ("--json", 2, "Missing command", "rewindctl --help"),
]

# Commands that only read make no experiment.
READING = (
    *("list", "list --json", "show {dense}", "lineage {dense}", "compare", "compare --claims --log", "verify --all"),
    *("verify {dense}", "gc", "gc --yes", "remove {finetune} --yes", "registry export all.bundle", "ui"),
)
SEE = "known: Default, rewindctl; see them: rewindctl doctor; make one: rewindctl init --experiment"

# {dense}, {prune}, {finetune}, {lr_rewind} are runs of the chain: N = 24, recorded at 0, 6, 12 and 24.
ON_CHAIN: list[Case] = [
    # references
    ("show 0123456789abcdef0123456789abcdef", 2, "no run '0123456789abcdef0123456789abcdef'", "rewindctl list"),
    ("prune --parent 0123456789abcdef --sparsity 0.5", 2, "no run starts with '0123456789abcdef'", "rewindctl list"),
    ("prune --parent the-best-one --sparsity 0.5", 2, "'the-best-one' is not a run", "at least 6"),
    ("prune --parent ABCDEF --sparsity 0.5", 2, "'ABCDEF' is not a run", "at least 6"),
    ("prune --parent '' --sparsity 0.5", 2, "'' is not a run", "at least 6"),
    ("prune --parent {dense:.5} --sparsity 0.5", 2, "'{dense:.5}' is not a run", "at least 6"),
    ("show {dense}0", 2, "'{dense}0' is not a run", "at least 6"),
    ("show models:/resnet8-digits-dense@seed-7", 2, "no model models:/resnet8-digits-dense@seed-7", "@seed-0"),
    ("show models:/nothing@seed-0", 2, "no model models:/nothing@seed-0", "rewindctl list"),
    ("show models:/resnet8-digits-dense/1", 2, "is not a model alias", "models:/resnet20-cifar10-dense@seed-0"),
    # kinds
    (
        "prune --parent {prune} --sparsity 0.9",
        2,
        "{prune} is a prune run, a dense or retrain run is needed",
        "its parent",
    ),
    (
        "retrain --parent {dense} --method lr_rewind",
        2,
        "{dense} is a dense run, a prune run is needed",
        "rewindctl prune",
    ),
    ("retrain --parent {finetune} --method lr_rewind", 2, "{finetune} is a retrain run, a prune run is needed", "list"),
    (
        "retrain --parent {prune} --method lr_rewind --sparsity 0.9",
        2,
        "{prune} is a prune run, a dense or retrain run is needed",
        "its parent",
    ),
    ("iterate --parent {prune} --method lr_rewind", 2, "{prune} is a prune run, a dense run is needed", "its parent"),
    (
        "iterate --parent {lr_rewind} --method lr_rewind",
        2,
        "{lr_rewind} is a retrain run, a dense run is needed",
        "list",
    ),
    # k
    ("retrain --parent {prune} --method weight_rewind", 2, "weight_rewind needs --k", "recorded: 0, 6, 12"),
    ("retrain --parent {prune} --method weight_rewind --k -1", 2, "--k -1 is outside|24", "recorded: 0, 6, 12"),
    ("retrain --parent {prune} --method weight_rewind --k 25", 2, "--k 25 is outside|24", "recorded: 0, 6, 12"),
    ("retrain --parent {prune} --method weight_rewind --k 24", 2, "--k 24|last iteration", "lr_rewind"),
    ("retrain --parent {prune} --method weight_rewind --k 7 --no-replay", 2, "iteration 7|{dense}", "recorded: 0, 6"),
    ("retrain --parent {prune} --method weight_rewind --k six", 2, "--k|'six'", "rewindctl retrain --help"),
    ("retrain --parent {prune} --method rewind --lr-k 0", 2, "rewind needs --weights-k", "recorded: 0, 6, 12, 24"),
    ("retrain --parent {prune} --method rewind --weights-k 6", 2, "rewind needs --lr-k", "from 0 to 23"),
    (
        "retrain --parent {prune} --method rewind --weights-k 7 --lr-k 0 --no-replay",
        2,
        "iteration 7",
        "recorded: 0, 6, 12, 24",
    ),
    (
        "retrain --parent {prune} --method lr_rewind --data-order continued",
        2,
        "--data-order continued has no meaning",
        "rewind the weights",
    ),
    ("replay --parent {dense} --iteration 25", 2, "--iteration 25 is outside the 24 iterations", "from 0 to 24"),
    ("replay --parent {dense} --iteration 7 --no-replay", 2, "iteration 7 of dense run", "recorded: 0, 6, 12, 24"),
    ("replay --parent {prune} --iteration 7", 2, "is a prune run, a dense or retrain run is needed", "give its parent"),
    ("prune --parent {dense} --sparsity 0.5 --iteration 25", 2, "--iteration 25 is outside", "from 0 to 24"),
    ("retrain --parent {prune} --method rewind --weights-k 6 --lr-k 24", 2, "--lr-k 24|last iteration", "earlier"),
    ("retrain --parent {prune} --method rewind --weights-k 6 --lr-k 25", 2, "--lr-k 25 is outside", "from 0 to 23"),
    ("retrain --parent {prune} --method rewind --weights-k 25 --lr-k 0", 2, "--weights-k 25 is outside", "recorded: 0"),
    ("iterate --parent {dense} --method weight_rewind", 2, "weight_rewind needs --k", "recorded: 0, 6, 12"),
    ("iterate --parent {dense} --method weight_rewind --k 7 --no-replay", 2, "iteration 7", "recorded: 0, 6, 12"),
    # options that a method has no use for
    ("retrain --parent {prune} --method finetune --k 6", 2, "--k 6 has no meaning for finetune", "leave --k out"),
    ("retrain --parent {prune} --method finetune --weights-k 6", 2, "--weights-k 6 has no meaning", "leave"),
    ("retrain --parent {prune} --method finetune --lr-k 6", 2, "--lr-k 6 has no meaning for finetune", "leave"),
    ("retrain --parent {prune} --method finetune --lr-clock restarted", 2, "--lr-clock restarted has no", "leave"),
    ("retrain --parent {prune} --method lr_rewind --k 6", 2, "--k 6 has no meaning for lr_rewind", "leave --k out"),
    ("retrain --parent {prune} --method lr_rewind --lr 0.1", 2, "--lr 0.1 has no meaning for lr_rewind", "leave"),
    ("retrain --parent {prune} --method lr_rewind --lr-clock restarted", 2, "--lr-clock restarted has no", "leave"),
    ("retrain --parent {prune} --method weight_rewind --k 6 --lr 0.1", 2, "--lr 0.1 has no meaning", "leave"),
    ("retrain --parent {prune} --method weight_rewind --k 6 --iterations 9", 2, "--iterations 9 has no", "leave"),
    ("retrain --parent {prune} --method weight_rewind --k 6 --lr-k 6", 2, "--lr-k 6 has no meaning", "leave"),
    ("retrain --parent {prune} --method rewind --weights-k 6 --lr-k 6 --k 6", 2, "--k 6 has no meaning", "leave"),
    # values
    ("retrain --parent {prune} --method finetune --lr 0", 2, "--lr 0.0 is not a positive number", "0.001"),
    ("retrain --parent {prune} --method finetune --lr -1", 2, "--lr -1.0 is not a positive number", "0.001"),
    ("retrain --parent {prune} --method finetune --lr nan", 2, "--lr nan is not a positive number", "0.001"),
    ("retrain --parent {prune} --method finetune --lr inf", 2, "--lr inf is not a positive number", "0.001"),
    ("retrain --parent {prune} --method finetune --iterations 0", 2, "--iterations 0 is not positive", "1000"),
    ("retrain --parent {prune} --method lr_rewind --iterations -5", 2, "--iterations -5 is not positive", "1000"),
    # nothing to compare
    ("compare --model resnet20", 1, "nothing to compare of resnet20", "rewindctl train-dense --model resnet20"),
    *(
        (f"{reading} --experiment rewindclt", 2, "no experiment 'rewindclt': did you mean 'rewindctl'?", SEE)
        for reading in READING
    ),
    ("list --experiment zzz", 2, "no experiment 'zzz'", SEE),
    ("--experiment rewindclt list", 2, "no experiment 'rewindclt': did you mean 'rewindctl'?", SEE),
]


def check(answer: Answer, code: int, words: str, hint: str) -> None:
    """One error line and at most one hint line, with their words; nothing else anywhere."""
    assert (answer.code, answer.out) == (code, ""), answer
    lines = answer.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"][: max(1, len(lines))], answer.err
    assert "Traceback" not in answer.err
    assert "this is a defect" not in answer.err
    assert all(word in lines[0] for word in words.split("|")), answer.err
    assert all(word in " ".join(lines[1:]) for word in hint.split("|")), answer.err
    assert all(len(line) < 600 for line in lines)


def runs(store: Path) -> list[tuple[str, ...]]:
    """Every run and every experiment, and what became of it."""
    with closing(sqlite3.connect(store)) as connection:
        return [
            *connection.execute("SELECT run_uuid, status, lifecycle_stage FROM runs ORDER BY run_uuid"),
            *connection.execute("SELECT name, lifecycle_stage FROM experiments ORDER BY name"),
        ]


@pytest.mark.parametrize(("line", "code", "words", "hint"), WITHOUT_STORE, ids=[case[0] for case in WITHOUT_STORE])
def test_a_request_that_is_wrong_in_itself_makes_no_store(
    cli: Cli, tmp_path: Path, line: str, code: int, words: str, hint: str
) -> None:
    (tmp_path / "file").write_text("neither a folder nor a database\n" * 100)
    check(cli(*shlex.split(line)), code, words, hint)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("line", "code", "words", "hint"), ON_CHAIN, ids=[case[0] for case in ON_CHAIN])
def test_a_request_that_does_not_fit_its_runs_changes_nothing(
    cli: Cli, chain: Chain, line: str, code: int, words: str, hint: str
) -> None:
    before = runs(chain.store)
    names = {name: getattr(chain, name) for name in ("dense", "prune", "finetune", "lr_rewind")}
    answer = cli(*shlex.split(line.format(**names)), "--tracking-uri", chain.uri)
    check(answer, code, words.format(**names), hint)
    assert runs(chain.store) == before


# What only an edited store shows.


def edit(chain: Chain, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(chain.store)) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0


def rename(chain: Chain, old: str, new: str) -> None:
    """Give a run another ID."""
    for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
        edit(chain, f"UPDATE {table} SET run_uuid = ? WHERE run_uuid = ?", new, old)


def test_a_prefix_of_two_runs_names_both(copied_chain: Chain, cli: Cli) -> None:
    twin = copied_chain.dense[:6] + "0" * 26
    rename(copied_chain, copied_chain.finetune, twin)
    answer = cli("show", copied_chain.dense[:6], "--tracking-uri", copied_chain.uri)
    check(answer, 2, f"'{copied_chain.dense[:6]}' is the start of 2 runs|{twin}|{copied_chain.dense}", "more digits")
    assert cli("show", copied_chain.dense, "--tracking-uri", copied_chain.uri).code == 0


COMMANDS = {
    "prune": "prune --parent {dense} --sparsity 0.5",
    "prune by prefix": "prune --parent {dense:.8} --sparsity 0.5",
    "prune by alias": "prune --parent models:/resnet8-digits-dense@seed-0 --sparsity 0.5",
    "retrain": "retrain --parent {dense} --method lr_rewind --sparsity 0.5",
    "iterate": "iterate --parent {dense} --method lr_rewind",
    "show": "show {dense}",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_deleted_run_is_not_used(copied_chain: Chain, cli: Cli, command: str) -> None:
    edit(copied_chain, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", copied_chain.dense)
    line = COMMANDS[command].format(dense=copied_chain.dense)
    before = runs(copied_chain.store)
    answer = cli(*shlex.split(line), "--tracking-uri", copied_chain.uri)
    restore = f"mlflow runs restore --run-id {copied_chain.dense} with MLFLOW_TRACKING_URI={copied_chain.uri}"
    check(answer, 2, f"run {copied_chain.dense} was deleted", restore)
    assert runs(copied_chain.store) == before


def test_a_run_that_was_removed_with_its_files_cannot_be_restored(copied_chain: Chain, cli: Cli) -> None:
    where = ("--tracking-uri", copied_chain.uri)
    assert cli("remove", copied_chain.finetune, *where).code == 0
    for reference in (copied_chain.finetune, copied_chain.finetune[:8]):
        answer = cli("show", reference, *where)
        check(answer, 2, f"run {copied_chain.finetune} was deleted, its files too", "run its stage again")


def test_a_prefix_names_the_run_that_is_there_before_those_that_were_deleted(copied_chain: Chain, cli: Cli) -> None:
    twin = copied_chain.dense[:8] + "0" * 24
    rename(copied_chain, copied_chain.finetune, twin)
    edit(copied_chain, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", twin)
    assert cli("show", copied_chain.dense[:8], "--tracking-uri", copied_chain.uri).code == 0


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
@pytest.mark.parametrize("command", ["prune", "retrain", "iterate"])
def test_an_unfinished_run_is_no_parent(copied_chain: Chain, cli: Cli, command: str, status: str) -> None:
    edit(copied_chain, "UPDATE runs SET status = ? WHERE run_uuid = ?", status, copied_chain.dense)
    line = COMMANDS[command].format(dense=copied_chain.dense)
    before = runs(copied_chain.store)
    answer = cli(*shlex.split(line), "--tracking-uri", copied_chain.uri)
    check(answer, 2, f"run {copied_chain.dense} is {status}, not FINISHED", "run its stage again")
    assert runs(copied_chain.store) == before


def test_an_unfinished_mask_is_not_retrained(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", copied_chain.prune)
    line = ("--parent", copied_chain.prune, "--method", "finetune", "--lr", "0.5", "--tracking-uri", copied_chain.uri)
    check(cli("retrain", *line), 2, f"run {copied_chain.prune} is RUNNING, not FINISHED", "run its stage again")


def test_a_retraining_needs_its_dense_run(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", copied_chain.dense)
    line = ("--parent", copied_chain.prune, "--method", "finetune", "--lr", "0.5", "--tracking-uri", copied_chain.uri)
    check(cli("retrain", *line), 2, f"run {copied_chain.dense} was deleted", "restore it")


def test_a_foreign_run_is_no_parent(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "DELETE FROM tags WHERE run_uuid = ?", copied_chain.dense)
    line = ("--parent", copied_chain.dense, "--sparsity", "0.5", "--tracking-uri", copied_chain.uri)
    check(cli("prune", *line), 2, f"run {copied_chain.dense} is a foreign run, a dense or retrain run is needed", "")


def test_a_deleted_experiment_says_how_to_restore_it(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'rewindctl'")
    answer = cli("list", "--tracking-uri", copied_chain.uri)
    check(answer, 1, "experiment 'rewindctl' was deleted", "mlflow experiments restore -x")


@pytest.mark.parametrize("line", [(), ("data",)])
def test_a_group_without_a_command_shows_its_help(cli: Cli, tmp_path: Path, line: tuple[str, ...]) -> None:
    answer = cli(*line)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.split()[:2] == ["Usage:", "rewindctl"]
    assert len(answer.err.splitlines()) > 10
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_comes_from(cli: Cli) -> None:
    for line in (("--debug", "compare", "--table", "none"), ("compare", "--table", "none", "--debug")):
        answer = cli(*line)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith("Traceback")
        assert "error: unknown table 'none'" in answer.err

"""Every option that can be given a wrong value has been given one, here or in the tables that this module reads."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.test_errors import DENSE, ITERATE, ON_CHAIN, PRUNE, RETRAIN, WITHOUT_STORE, Case, check, runs
from cli.test_help import ALL
from cli.test_reproduce import REFUSED
from cli.test_tune import REFUSED_EARLY, REFUSED_LATE
from conftest import Chain, Cli

TUNE = "tune --parent abcdef"
EARLY: list[Case] = [
    ("bench --model resnet9", 2, "resnet9|6n+2", "resnet8"),
    ("bench --seconds nan", 2, "--seconds nan is outside 0 to 3,600", "such as 10"),
    ("bench --model resnet8 --seconds -1", 2, "--seconds -1 is outside", "such as 10"),
    ("bench --device gpu", 2, "unknown device 'gpu'", "known: auto"),
    ("compare --study fig7", 2, "unknown study 'fig7': did you mean 'fig6'?", "known: all, fig1"),
    ("compare --claims --margin -1", 2, "--margin|-1", "rewindctl compare --help"),
    ("compare --claims --margin nan", 2, "--margin|nan", ""),
    ("compare --pair lr_rewind", 2, "--pair|2 arguments", "--help"),
    ("compare --pair lr_rewind finetune --claims", 2, "both --pair and --claims are given", "give one of the two"),
    ("compare --pair a b --table cells", 2, "both --pair and --table cells are given", "give one of the two"),
    ("compare --against rend", 2, "--against|'rend'|Did you mean 'renda'?", "rewindctl compare --help"),
    ("compare --delta point", 2, "--delta|'point'|Did you mean 'points'?", "rewindctl compare --help"),
    ("compare --from none.csv", 2, "none.csv cannot be read", "runs.csv"),
    ("compare --study fig1 --scale 0", 2, "--scale 0 is outside (0, 1]", "such as 0.01"),
    ("data fetch cifar", 2, "unknown data set 'cifar': did you mean 'cifar10'?", "known: cifar10"),
    ("data import 'a b' file", 2, "'a b' cannot name a data set", "letters, digits"),
    ("data import toy nowhere.npz", 2, "nowhere.npz does not exist", "train/ and test/"),
    ("data import toy file", 1, "file is not a readable .npz archive", "get the file again"),
    ("demo --model resnet9", 2, "resnet9|6n+2", "resnet8"),
    ("demo --dataset digit", 2, "'digit': did you mean 'digits'?", "known: cifar10"),
    (f"{ITERATE} --lr-clock restart", 2, "--lr-clock|'restart'|Did you mean 'restarted'?", "rewindctl iterate --help"),
    (f"{ITERATE} --optimizer-state one", 2, "--optimizer-state|'one'", "rewindctl iterate --help"),
    (f"{ITERATE} --structure blocks", 2, "--structure|'blocks'", "rewindctl iterate --help"),
    (f"{ITERATE} --scope all", 2, "--scope|'all'", "rewindctl iterate --help"),
    (f"{ITERATE} --criterion magnitud", 2, "'magnitud': did you mean 'magnitude'?", "known: gradient_magnitude"),
    (f"{ITERATE} --exclude 'a b'", 2, "--exclude 'a b' is not a pattern of layers", "write stem"),
    ("lineage abcdef --format svg", 2, "--format|'svg'", "rewindctl lineage --help"),
    ("list --method weight_rewnd", 2, "did you mean 'weight_rewind'?", "known: finetune"),
    ("list --where compression", 2, "--where 'compression' is not a condition", "lr_rewind"),
    ("list --sort accurcy", 2, "'accurcy': did you mean 'accuracy'?", "known: accuracy"),
    ("list --limit 0", 2, "--limit|0", "rewindctl list --help"),
    ("list --page 0", 2, "--page|0", "rewindctl list --help"),
    (f"{PRUNE} --sparsity 0.5 --scope local", 2, "--scope|'local'", "rewindctl prune --help"),
    (f"{PRUNE} --sparsity 0.5 --exclude stem,=", 2, "--exclude '=' is not a pattern of layers", "write stem"),
    ("registry export x --kind prun", 2, "--kind|'prun'|Did you mean 'prune'?", "rewindctl registry export --help"),
    ("registry export x --tag method", 2, "--tag 'method' is not KEY=VALUE", "write model=resnet20"),
    ("registry export x --study fig7", 2, "unknown study 'fig7': did you mean 'fig6'?", "known: all"),
    ("registry export x --study fig1 --scale 2", 2, "--scale 2 is outside (0, 1]", "such as 0.01"),
    ("registry export x --max-size 1", 2, "--max-size '1' is not a size", "write 16M"),
    ("registry import nowhere.bundle", 2, "nowhere.bundle does not exist", "registry export"),
    (
        "registry relocate --tracking-uri http://127.0.0.1:1",
        2,
        "http://127.0.0.1:1 is not a SQLite store",
        "its administrator decides",
    ),
    (f"{RETRAIN} --method finetune --optimizer-state one", 2, "--optimizer-state|'one'", "rewindctl retrain --help"),
    (f"{RETRAIN} --method finetune --channel-norm drop", 2, "--channel-norm|'drop'", "rewindctl retrain --help"),
    (f"{RETRAIN} --method finetune --criterion magnitud", 2, "did you mean 'magnitude'?", "known: gradient_magnitude"),
    (f"{RETRAIN} --method finetune --exclude /", 2, "--exclude '/' is not a pattern of layers", "write stem"),
    (f"{RETRAIN} --method finetune --jobs 0", 2, "--jobs|0", "rewindctl retrain --help"),
    (f"{DENSE} --seeds 0-3 --jobs 0", 2, "--jobs|0", "rewindctl train-dense --help"),
    (f"{DENSE} --seeds 0-3 --jobs many", 2, "--jobs|'many'", "rewindctl train-dense --help"),
    (f"{TUNE} --seeds 0", 2, "--seeds|0", "rewindctl tune --help"),
    (f"{TUNE} --holdout-seed -1", 2, "--holdout-seed|-1", "rewindctl tune --help"),
    (f"{TUNE} --evaluate-every 0", 2, "--evaluate-every|0", "rewindctl tune --help"),
    (f"{TUNE} --seed -1", 2, "--seed|-1", "rewindctl tune --help"),
    (f"{TUNE} --compare-seeds -1", 2, "--compare-seeds|-1", "rewindctl tune --help"),
    (f"{TUNE} --jobs 0", 2, "--jobs|0", "rewindctl tune --help"),
    (f"{TUNE} --lr-clock restart", 2, "--lr-clock|'restart'", "rewindctl tune --help"),
    (f"{TUNE} --optimizer-state one", 2, "--optimizer-state|'one'", "rewindctl tune --help"),
    ("ui --host 'a b'", 2, "--host 'a b' is not an address", "127.0.0.1"),
    ("ui --allowed-hosts 'a b'", 2, "--allowed-hosts 'a b' is not a list of names", "lab.example.org:5000"),
    ("verify", 2, "give a run, or --all", "give one"),
    ("iterate --parent abcdef --method lr_rewind --momentum x", 2, "--momentum|'x'", "rewindctl iterate --help"),
    ("recover --dryrun", 2, "--dryrun|--dry-run", "rewindctl recover --help"),
    ("remove", 2, "Missing argument", "rewindctl remove --help"),
    ("gc --yes --dry-run", 2, "both --yes and --dry-run are given", "give one of the two"),
    ("verify abcdef --all", 2, "both abcdef and --all are given", "give one"),
    (f"{DENSE} --precision fp16", 2, "unknown precision 'fp16'", "known: auto, fp32, bf16"),
    ("bench --precision bf15", 2, "unknown precision 'bf15'", "known: auto, fp32, bf16"),
    (f"{DENSE} --update-step triton", 2, "unknown update step 'triton'", "known: auto, pytorch, fused"),
    ("bench --update-step triton", 2, "unknown update step 'triton'", "known: auto, pytorch, fused"),
    (f"{DENSE} --update-step fused --device cpu", 2, "--update-step fused: ", "use --update-step auto"),
    ("bench --update-step fused --device cpu", 2, "--update-step fused: ", "use --update-step auto"),
    (f"{TUNE} --update-step fused --device cpu", 2, "--update-step fused: ", "use --update-step auto"),
    (f"{DENSE} --update-step fused --compile", 2, "both --update-step fused and --compile", "give one of the two"),
    (f"{DENSE} --resume-points here", 2, "--resume-points|'here'", "rewindctl train-dense --help"),
    (f"{DENSE} --checkpoint-every -1", 2, "--checkpoint-every|-1", "rewindctl train-dense --help"),
    (
        "train-dense --model resnet20 --dataset cifar10 --data-dir file",
        1,
        "cifar10|was not found",
        "data fetch cifar10",
    ),
    ("trian-dense", 2, "Did you mean 'train-dense'?", "rewindctl --help"),
    ("train-dense --modle resnet8", 2, "--modle|--model", "rewindctl train-dense --help"),
]
LATE: list[Case] = [
    ("compare --dataset cifar10", 1, "nothing to compare on cifar10", "--dataset cifar10"),
    ("compare --dataset digit", 2, "unknown data set 'digit': did you mean 'digits'?", "known: cifar10"),
    ("compare --model resnt8 --dataset digits", 2, "unknown model 'resnt8'", "known: |resnet"),
    (
        "compare --pair lr_rewind 'weight_rewind k=7'",
        2,
        "'weight_rewind k=7': did you mean",
        "known: finetune",
    ),
    ("compare --pair lr_rewind method=rewind", 2, "no retraining has method=rewind", "method is finetune, lr_rewind"),
    ("compare --pair lr_rewind k=6", 2, "--pair: unknown column 'k'", "known: channel_norm"),
    ("compare --pair lr_rewind 'LR rewinding'", 2, "are the same retrainings", "give two that differ"),
    ("compare --figure curves --output {store}/x", 2, "cannot be written", "another --output"),
    ("list --where sparsty>0", 2, "--where: no run has 'sparsty': did you mean 'sparsity'?", "known: "),
    ("list --page 9", 2, "--page 9 is past the last page, 1", "smaller --page"),
    ("prune --parent {dense} --sparsity 0.5 --iteration 7 --no-replay", 2, "iteration 7", "recorded: 0, 6, 12, 24"),
    ("retrain --parent {prune} --method weight_rewind --k 6 --data-order x", 2, "--data-order|'x'", "retrain --help"),
    ("iterate --parent {dense} --method weight_rewind --k 6 --data-order x", 2, "--data-order|'x'", "iterate --help"),
    (
        "iterate --parent {dense} --method rewind --weights-k 25 --lr-k 0",
        2,
        "--weights-k 25 is outside",
        "recorded: 0, 6",
    ),
    ("iterate --parent {dense} --method rewind --weights-k 6 --lr-k 25", 2, "--lr-k 25 is outside", "from 0 to 23"),
    ("iterate --parent {dense} --method finetune --lr nan", 2, "--lr nan is not a positive number", "0.001"),
    ("iterate --parent {dense} --method finetune --iterations 0", 2, "--iterations 0 is not positive", "1000"),
    ("remove nothing", 2, "'nothing' is not a run", "models:/NAME@alias"),
    ("retrain --parent {prune} --method finetune --momentum 2", 2, "momentum = 2.0", "option's help"),
    ("registry export x --run {dense:.5}", 2, "'{dense:.5}' is not a run", "at least 6"),
    ("registry export x --tag model=alexnet", 2, "no finished run matches the options", "rewindctl list"),
    ("verify {dense:.5}", 2, "'{dense:.5}' is not a run", "at least 6"),
    ("lineage {dense:.5}", 2, "'{dense:.5}' is not a run", "at least 6"),
    ("tune --parent {dense:.5}", 2, "'{dense:.5}' is not a run", "at least 6"),
]

# The same code for every command that has them, wrong once in the tables; any name, place or file name is a right one.
SHARED = (
    *("--tracking-uri", "--experiment", "--device", "--precision", "--update-step", "--checkpoint-every"),
    *("--resume-points", "--data-dir"),
)
NEVER_WRONG = {
    ("demo", "--output"),  # written to when all runs are there; that of compare is the same
    ("reproduce", "--output"),
    ("tune", "--study"),
}


@pytest.mark.parametrize(("line", "code", "words", "hint"), EARLY, ids=[case[0] for case in EARLY])
def test_a_value_that_is_wrong_in_itself_makes_no_store(
    cli: Cli, tmp_path: Path, line: str, code: int, words: str, hint: str
) -> None:
    (tmp_path / "file").write_text("no archive\n" * 100)
    check(cli(*shlex.split(line)), code, words, hint)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("line", "code", "words", "hint"), LATE, ids=[case[0] for case in LATE])
def test_a_value_that_does_not_fit_the_runs_changes_nothing(
    cli: Cli, chain: Chain, tmp_path: Path, line: str, code: int, words: str, hint: str
) -> None:
    before = runs(chain.store)
    names = {name: getattr(chain, name) for name in ("dense", "prune", "store")}
    answer = cli(*shlex.split(line.format(**names)), "--tracking-uri", chain.uri)
    check(answer, code, words.format(**names), hint)
    assert runs(chain.store) == before
    assert list(tmp_path.iterdir()) == []


def lines_of(name: str) -> Iterator[list[str]]:
    """Every wrong command line that there is for a command."""
    tables = [case[0] for case in (*WITHOUT_STORE, *ON_CHAIN, *EARLY, *LATE)]
    tables += [shlex.join(("reproduce", *line)) for line, _, _ in REFUSED]
    tables += [f"tune --parent abcdef {case[0]}" for case in (*REFUSED_EARLY, *REFUSED_LATE)]
    for line in tables:
        words = shlex.split(line)
        if words[: len(name.split())] == name.split():
            yield words


@pytest.mark.parametrize("name", ALL)
def test_every_option_with_a_value_is_in_a_table(name: str) -> None:
    given = {word.partition("=")[0] for words in lines_of(name) for word in words}
    options = [one for one in ALL[name].params if one.param_type_name == "option" and not one.is_flag]
    missing = [one.opts[0] for one in options if not given & set(one.opts) and one.opts[0] not in SHARED]
    assert [option for option in missing if (name, option) not in NEVER_WRONG] == []


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("init", "doctor", "data list")])
def test_every_command_is_in_a_table(name: str) -> None:
    assert list(lines_of(name))


@pytest.mark.parametrize("option", [option for option in SHARED if option != "--experiment"])
def test_every_shared_option_is_in_a_table(option: str) -> None:
    assert any(option in words for name in ALL for words in lines_of(name))


def test_an_exception_is_an_option_that_there_is() -> None:
    for name, option in NEVER_WRONG:
        assert any(option in parameter.opts for parameter in ALL[name].params), (name, option)

"""rewindctl data list | fetch | import"""

from pathlib import Path
from typing import Annotated

import typer

from rewindctl.cli import complete
from rewindctl.cli.session import Session, command
from rewindctl.counting import count_of

app = typer.Typer(help="List, download and import data sets.", no_args_is_help=True, rich_markup_mode=None)
DataDir = Annotated[Path | None, typer.Option(help="Folder of data sets. [$REWINDCTL_DATA, user cache]")]


@app.command("list")
@command()
def list_data(session: Session, data_dir: DataDir = None) -> None:
    """List the data sets and where each is.

    Examples:
        rewindctl data list
        rewindctl data list --data-dir ~/data --json
    """
    from rewindctl.datasets.inventory import inventory
    from rewindctl.plugins import load_plugins

    rows = inventory(data_dir)
    for failure in load_plugins():
        session.console.say(f"note: {failure.message}\n{failure.hint}")
    if session.json:
        session.console.json(rows)
        return
    for row in rows:
        session.console.data(f"{row['name']:16} {row['place'] or 'missing: rewindctl data fetch ' + row['name']}")


@app.command("fetch")
@command()
def fetch_data(
    session: Session,
    name: Annotated[
        str, typer.Argument(help="cifar10 or cifar100.", autocompletion=complete.names("downloaded data set"))
    ],
    data_dir: DataDir = None,
) -> None:
    """Download a data set with torchvision, verify it and keep it as NAME.npz.

    Examples:
        rewindctl data fetch cifar10
        rewindctl data fetch cifar100 --data-dir ~/data
    """
    from rewindctl.datasets.cifar import fetch

    _show(session, *fetch(name, data_dir))


@app.command("import")
@command()
def import_data(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name to use with --dataset.")],
    source: Annotated[Path, typer.Argument(help="An .npz, or a folder with train/<class>/ and test/<class>/.")],
    data_dir: DataDir = None,
) -> None:
    """Import an image folder or an .npz with x_train, y_train, x_test and y_test.

    Examples:
        rewindctl data import cells cells.npz
        rewindctl data import leaves photos/leaves --data-dir ~/data
    """
    from rewindctl.datasets.files import import_dataset

    _show(session, *import_dataset(name, source, data_dir))


def _show(session: Session, dataset: object, path: Path) -> None:
    from rewindctl.datasets.inventory import describe
    from rewindctl.training.recipes import recipes_with_larger_batches

    facts = describe(dataset) | {"path": str(path)}  # type: ignore[arg-type]
    if session.json:
        session.console.json(facts)
        return
    session.console.data(str(path))
    session.console.say(
        f"{facts['name']}: {facts['train']:,} training and {count_of(facts['test'], 'test image')}, {facts['shape']}"
    )
    if recipes := recipes_with_larger_batches(facts["train"]):
        session.console.say(
            f"note: the batches of the recipes {', '.join(recipes)} are larger than its training set: "
            f"train with --batch-size {facts['train']} or less"
        )

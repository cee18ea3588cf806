"""What options take: the entries of the catalogs."""

from collections.abc import Iterator
from typing import Any

from making.tables import first_line, table


def catalogs() -> Iterator[str]:
    from rewindctl.datasets import datasets
    from rewindctl.pruning import criteria
    from rewindctl.report.figures import figures
    from rewindctl.report.formats import formats
    from rewindctl.report.lineage import forms
    from rewindctl.report.runs import orders
    from rewindctl.report.study_tables import study_tables
    from rewindctl.report.tables import tables
    from rewindctl.rewinding.methods import methods

    plans = {name: methods[name].plan for name in methods}
    yield "## Names\n"
    yield "What options take. [Plug-ins](how-to.md#my-own-network-and-data) add to models, data sets and the like.\n"
    yield from networks()
    yield from listing("Data sets", "`--dataset`; and whatever `rewindctl data import` was given.", datasets)
    yield from listing("Methods", "`--method` of `retrain`, `iterate` and `tune`.", plans)
    yield from listing("Criteria", "`--criterion`: the lowest scores are removed first.", criteria)
    yield from recipe_table()
    yield from studies()
    yield from listing("Tables", "`compare --table`, of whatever runs there are.", tables)
    yield from listing("Tables of studies", "`compare --study NAME --table`.", study_tables)
    yield from listing("Figures", "`compare --figure`; a study's name draws that study.", figures)
    yield from listing("Formats of tables", "`compare --format`.", formats)
    yield from listing("Formats of lineage", "`lineage --format`, and `json`.", forms)
    yield f"### Orders\n\n`list --sort`: {', '.join(f'`{name}`' for name in orders)}.\n"


def listing(title: str, where: str, catalog: Any) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"{where}\n"
    yield table(["name", "what"], ([f"`{name}`", first_line(catalog[name])] for name in catalog))


def networks() -> Iterator[str]:
    from rewindctl.models import NetworkConfig, kernels, models
    from rewindctl.training.recipes import default_recipe

    shown = ("resnet8", "resnet20", "resnet56", "resnet110", "wrn16_8")
    rows = []
    for name in shown:
        network = models[name](NetworkConfig(3, 10, 0.1, 1e-5))
        counts = [sum(p.numel() for p in network.parameters()), sum(p.numel() for p in kernels(network).values())]
        rows.append([f"`{name}`", *(f"{count:,}" for count in counts), f"`{default_recipe(name, 'cifar10')}`"])
    yield "### Models\n"
    yield f"`--model`: {', '.join(f'`{name}`' for name in models.names())}. With 3 input channels and 10 classes:\n"
    yield table(["name", "parameters", "kernel parameters (prunable)", "recipe"], rows)


def recipe_table() -> Iterator[str]:
    import dataclasses

    from rewindctl.training.recipes import recipes

    yield "### Recipes\n"
    yield "`--recipe`. Iteration counts scale together when a run is given another length (`--iterations`).\n"
    names = list(recipes)
    fields = [field.name for field in dataclasses.fields(recipes[names[0]])]
    rows = [[field, *(value_text(getattr(recipes[name], field)) for name in names)] for field in fields]
    yield table(["", *(f"`{name}`" for name in names)], rows)


def value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(value_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def studies() -> Iterator[str]:
    from rewindctl.paper.study import shipped

    yield "### Studies\n"
    yield "Of `reproduce` and `compare --study`; `all` is all of the paper's. `reproduce --show STUDY` prints one.\n"
    found = shipped().values()
    rows = ([f"`{s.name}`", str(s.cell_count), str(s.trials), "yes" if s.part_of_paper else "", s.title] for s in found)
    yield table(["name", "cells", "trials", "of the paper", "what"], rows)

"""Rows for the cells of a study, made up or run, for the tests of reports."""

from functools import cache
from typing import Any

import pandas as pd

from rewindctl.datasets.inventory import DataFacts, facts_of
from rewindctl.paper.plan import make_plan
from rewindctl.paper.study import Study, parse_study
from rewindctl.report.frame import COLUMNS, in_order, recipe_of, scale_of
from rewindctl.report.section import tables_text
from rewindctl.report.study import StudyReport
from rewindctl.specs import PruneSpec

HOSTILE = "Tiny <script>alert(1)</script> & 50 % of_it | [x](http://example.org)"
TINY_STUDY = f"""
schema: 1
name: tiny
title: '{HOSTILE}'
tables: [cells, table5, table1, table4]
panels:
  - {{model: resnet8, dataset: digits, iterations: 24}}
  - model: resnet8
    dataset: digits
    iterations: 24
    schedule: one_shot
    sparsities: [0.75]
    methods: [{{method: finetune}}, {{method: weight_rewind, k: 6}}, {{method: lr_rewind}}]
  - model: resnet8
    dataset: digits
    iterations: 24
    schedule: iterative
    sparsities: [0.5, 0.75]
    methods: [{{method: lr_rewind}}]
"""
tiny_study: Study = parse_study(TINY_STUDY, "tiny")
NO_ROWS = in_order(pd.DataFrame(columns=list(COLUMNS)))


def facts(name: str) -> DataFacts:
    """Of every data set, none of which has to be here."""
    return facts_of(name, None)


def text_of(report: StudyReport, form: str = "text") -> str:
    """The tables of a study in one of the formats."""
    return tables_text(report.section().tables, form)


def made_rows(study: Study, scale: float = 1.0, seeds: int = 3) -> pd.DataFrame:
    """A trial per seed for every cell, accuracies made up; a frame of the caller's own."""
    return _made_rows(study, scale, seeds).copy()


@cache
def _made_rows(study: Study, scale: float, seeds: int) -> pd.DataFrame:
    plan = make_plan([study], facts, tuple(range(seeds)), scale)
    rows: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        for seed, key in enumerate(cell.stages):
            stage = plan.stages[key]
            dense = plan.dense_of(stage)
            chain = plan.lineage(key)
            masks = [spec for link in chain if isinstance(spec := plan.stages[link].spec, PruneSpec)]
            accuracy = 0.9 - 0.002 * cell.compression + 0.004 * seed
            rows[key] = dict.fromkeys(COLUMNS) | {
                "run_id": f"{key[:30]}{seed:02}",
                "model": cell.model,
                "dataset": cell.dataset,
                "iterations": dense.iterations,
                "scale": scale_of(dense),
                "recipe": recipe_of(dense),
                "structure": cell.structure if cell.schedule != "dense" else "",
                "scope": cell.scope if cell.schedule != "dense" else "",
                "criterion": "magnitude" if cell.schedule != "dense" else "",
                "channel_norm": "keep" if cell.schedule != "dense" else "",
                "exclude": " ".join(masks[-1].exclude) if masks else "",
                "pruned_at": masks[-1].iteration if masks else None,
                "schedule": cell.schedule,
                "step": cell.step,
                "level": len(masks),
                "method": cell.method,
                "label": cell.label,
                "group": cell.group,
                "seed": seed,
                "sparsity_asked": cell.sparsity,
                "sparsity": cell.sparsity,
                "compression": cell.compression,
                "test_accuracy": accuracy,
                "test_accuracy_best": accuracy + 0.001,
                "prune_run_id": f"{stage.parent[:30]}{seed:02}" if stage.parent else "",
                "dense_run_id": f"{chain[-1][:30]}{seed:02}",
                "dense_group": plan.groups[chain[-1]],
                "dense_accuracy": 0.9 + 0.001 * seed,
                "dense_accuracy_best": 0.91 + 0.001 * seed,
                "device": "some GPU",
                "precision": "fp32",
                "dense_precision": "fp32",
                "deterministic": "True",
                "data_digest": dense.data_digest,
                "iterations_per_second": 100.0 + seed,
                "ended": f"2026-01-0{seed + 1}T00:00:00Z",
                "origin": "",
            }
    return in_order(pd.DataFrame(list(rows.values()), columns=list(COLUMNS)))

"""The names that catalogs know, without the weight of what they name: what a shell offers after an option.

A test holds them to the catalogs. What plug-ins added the last time they were loaded comes from a file (`plugins.py`).
"""

from rewindctl.plugins import remembered

# Networks come in families without end: those of the paper, and the small one of the examples.
BUILT_IN: dict[str, dict[str, str]] = {
    "model": {
        "resnet8": "small, for the digits and for trying out",
        "resnet20": "of the paper, CIFAR-10",
        "resnet56": "of the paper, CIFAR-10",
        "resnet110": "of the paper, CIFAR-10",
        "wrn16_8": "wide ResNet of the paper's comparison",
    },
    "data set": {"digits": "embedded, 8x8", "cifar10": "32x32, 10 classes", "cifar100": "32x32, 100 classes"},
    "downloaded data set": {"cifar10": "", "cifar100": ""},
    "recipe": {"resnet": "of the paper", "wrn": "of the paper's comparison", "digits": "of the examples"},
    "criterion": {
        "magnitude": "the smallest weights go",
        "random": "a control",
        "gradient_magnitude": "the smallest weight times gradient goes",
    },
    "order": dict.fromkeys(("spec", "accuracy", "compression", "started", "name"), ""),
    "format": dict.fromkeys(("text", "markdown", "latex", "csv", "json"), ""),
    "table": dict.fromkeys(("results", "cells", "table1", "table2", "table3", "table4", "table5", "verdicts"), ""),
    "figure": dict.fromkeys(("curves", "fig1", "fig2", "fig3", "fig4", "fig5", "fig6"), ""),
    "study": {
        **dict.fromkeys(("fig1", "fig2", "fig3", "fig4", "fig5", "fig6"), "figure of the paper"),
        **dict.fromkeys(("table1", "table2", "table3", "table4", "table5"), "table of the paper"),
        "in_between": "weights of W, clock from C: what lies between the rewindings",
        "lr_clock": "the text's clock against the code's",
        "retrain_length": "accuracy against the iterations of retraining",
        "wrn_checkpoint": "pruned at the end against pruned at 72,000, as the authors' code does",
    },
    "column": dict.fromkeys(  # of runs, for `list --where`: a run may have more
        (
            *("compression", "dataset", "delta_accuracy", "iterations", "kind", "method", "model", "name"),
            *("scope", "seed", "sparsity", "status", "structure", "test_accuracy", "test_accuracy_best"),
        ),
        "",
    ),
    "cell column": dict.fromkeys(  # of a study's cells, for `reproduce --cells`
        (
            *("channel_norm", "compression", "criterion", "dataset", "exclude", "k", "label", "method", "model"),
            *("panel", "pruned_at", "schedule", "scope", "sparsity", "step", "structure", "study"),
        ),
        "",
    ),
}


def known(kind: str) -> dict[str, str]:
    """Names of a kind of catalog, each with a few words on what it is."""
    return BUILT_IN.get(kind, {}) | dict.fromkeys(remembered().get(kind, ()), "of a plug-in")

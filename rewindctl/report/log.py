"""The report as a run in MLflow, beside the runs that it is made of."""

from pathlib import Path

from rewindctl.registry import Registry, RunRecord
from rewindctl.report.compare import ComparisonReport
from rewindctl.report.formats import formats
from rewindctl.system.temporary import temporary_folder

LONGEST_NOTE = 4_500  # MLflow's stores take 5,000 characters


def log_report(registry: Registry, comparison: ComparisonReport) -> RunRecord:
    """A finished run of kind `report` with the page, tables, figures and rows. Raises: RegistryError."""
    wanted = comparison.wanted
    names = [report.study.name for report in comparison.reports]
    writer = registry.start_report(f"report {' '.join(names) or 'of all runs'}"[:200], _note(comparison))
    try:
        params = {
            "studies": ",".join(names) or "none",
            "against": wanted.against,
            "scale": f"{wanted.scale:g}",
            "accuracy": wanted.accuracy,
            "delta": wanted.delta,
            "source": comparison.source,
        }
        writer.log_params(params)
        writer.log_metrics({"runs": float(comparison.rows["run_id"].nunique())})
        with temporary_folder() as folder:
            for path in comparison.write_files(Path(folder), pages=True):
                with writer.artifact(path.name) as local:
                    local.write_bytes(path.read_bytes())
        writer.seal()
        return writer.finish()
    except BaseException as error:
        writer.fail(error)
        raise


def _note(comparison: ComparisonReport) -> str:
    """The main table in Markdown, as many of its rows as a note holds."""
    section = comparison.sections[0]
    table = formats["markdown"](next(iter(section.tables.values()))) if section.tables else ""
    marks = sorted({report.mark for report in comparison.reports if report.mark})
    title = f"**{', '.join([section.title, *marks])}**"
    text = f"{title}\n\nAll tables and figures: artifact `report.html`.\n\n{table}"
    if len(text) <= LONGEST_NOTE:
        return text
    return text[:LONGEST_NOTE].rpartition("\n")[0] + "\n\nThe rest is in `report.html`."

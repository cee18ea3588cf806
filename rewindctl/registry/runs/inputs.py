"""What a run was made from and what it made, as the MLflow UI links them: data sets and networks."""

import json
from dataclasses import dataclass
from typing import Any

from rewindctl.registry.records import DATA_CONTEXT, DATASET, KIND, METHOD, MODEL, SEED, SPARSITY
from rewindctl.registry.store.client import Client

DIGEST_DIGITS = 12  # what the UI has room for; the whole digest is in the profile
NOT_IN_A_NAME = str.maketrans(dict.fromkeys("/:.%\"'", "_"))
TOLD_OF_A_NETWORK = (KIND, MODEL, DATASET, SEED, METHOD, SPARSITY)


@dataclass(frozen=True)
class DataInput:
    """One part of a data set: `context` is what it was for, `columns` a type in words for each name.

    `origin` says where the data is from in a way that holds on every machine: no path, no credentials.
    """

    name: str
    digest: str
    origin: str
    context: str
    columns: dict[str, str]
    profile: dict[str, Any]

    def to_mlflow(self) -> Any:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        schema = [{"name": name, "type": kind, "required": True} for name, kind in self.columns.items()]
        dataset = Dataset(
            name=self.name,
            digest=self.digest[:DIGEST_DIGITS],
            source_type="local",
            source=json.dumps({"uri": self.origin}),
            schema=json.dumps({"mlflow_colspec": schema}),
            profile=json.dumps({**self.profile, "data_digest": self.digest}),
        )
        return DatasetInput(dataset, [InputTag(DATA_CONTEXT, self.context)])


def log_inputs(client: Client, run_id: str, data: list[DataInput], source: str | None) -> None:
    """Data sets, and the network of the run `source` where it has one. The same again changes nothing."""
    from mlflow.entities import LoggedModelInput

    model = source and made_model(client, source)
    models = [LoggedModelInput(model)] if model else None
    client.log_inputs(run_id, [part.to_mlflow() for part in data], models)


def log_network(client: Client, run_id: str, iteration: int) -> str:
    """The network that a run made, as a model that other runs can have for input; its ID.

    It has no files of its own: they are the run's checkpoints. A run that is gone on with has it already.
    """
    from mlflow.entities import LoggedModelOutput

    found = made_model(client, run_id)
    if found is not None:
        return found
    run = client.get_run(run_id)
    tags = {key: value for key, value in run.data.tags.items() if key in TOLD_OF_A_NETWORK}
    name = run.info.run_name.translate(NOT_IN_A_NAME)
    model = _unlinked(client, run) or client.create_logged_model(
        run.info.experiment_id, name, run_id, tags, None, tags[KIND]
    )
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, iteration)])
    return str(model.model_id)


def _unlinked(client: Client, run: Any) -> Any:
    """The model of a run that was killed between making and linking it."""
    found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'", None, 1)
    return next(iter(found), None)


def made_model(client: Client, run_id: str) -> str | None:
    """The ID of the model that a run made, None for runs of earlier versions and prune runs."""
    outputs = client.get_run(run_id).outputs
    return str(outputs.model_outputs[0].model_id) if outputs and outputs.model_outputs else None

"""What the code cannot say of itself in the reference: a few words for each tag, field, metric, file and variable.

`docs/make_reference.py` refuses to run while one of the code's is missing here.
"""

STAGES = ("dense", "prune", "retrain")
TRACKED = (*STAGES, "replay", "tune", "trial")
TRAINED = ("dense", "retrain")
REPLAYED = (*TRAINED, "replay")
ALL = (*TRACKED, "report")

# Tag: the kinds of run that always have it when finished, and what it is.
TAGS = {
    "mlflow.parentRunId": (
        ("prune", "retrain", "replay", "tune", "trial"),
        "the run that it was made from; of a dense run the project run of `mlflow run`",
    ),
    "mlflow.note.content": (
        (*STAGES, "replay", "tune", "report"),
        "Markdown: what the run is, and the command that makes it again",
    ),
    "mlflow.user": (ALL, "login name"),
    "rewindctl.kind": (ALL, "`dense`, `prune`, `retrain`, `replay`, `tune`, `trial` or `report`"),
    "rewindctl.schema": (ALL, "version of the specification's form: 2; 1 in runs of earlier versions"),
    "rewindctl.fingerprint": (TRACKED, "SHA-256 of what decides the result's bytes, the parent's fingerprint in it"),
    "rewindctl.group": (TRACKED, "the fingerprint without the seed: medians are taken over it"),
    "rewindctl.spec": (TRACKED, "the specification as canonical JSON"),
    "rewindctl.manifest": (ALL, "SHA-256 of `manifest.json`"),
    "rewindctl.dense_run_id": (TRACKED, "the baseline at the root of the lineage; a dense run's own ID"),
    "rewindctl.weights_from": (
        ("retrain",),
        "`RUN@ITERATION` that the retraining started with; also of a mask over an earlier iteration",
    ),
    "rewindctl.model": (TRACKED, "network"),
    "rewindctl.dataset": (TRACKED, "data set"),
    "rewindctl.seed": (TRACKED, "seed of the baseline"),
    "rewindctl.structure": (("prune", "retrain", "tune", "trial"), "`unstructured` or `structured`"),
    "rewindctl.scope": (("prune", "retrain", "tune", "trial"), "`global` or `layerwise`"),
    "rewindctl.sparsity": (("prune", "retrain", "tune", "trial"), "the sparsity achieved"),
    "rewindctl.method": (("retrain",), "retraining method"),
    "rewindctl.label": ((*STAGES, "replay"), "the name without the seed"),
    "rewindctl.device": (TRACKED, "processor or GPU"),
    "rewindctl.precision": (
        (*REPLAYED, "trial"),
        "fp32 or bf16, of the updates; runs of earlier versions without it: fp32",
    ),
    "rewindctl.deterministic": ((*REPLAYED, "trial"), "whether only deterministic kernels were used on CUDA"),
    "rewindctl.step": (
        (*REPLAYED, "trial"),
        "what made the updates: `pytorch`, or `fused` (kernels of our own); runs without it: pytorch",
    ),
    "rewindctl.compiled": ((*REPLAYED, "trial"), "whether PyTorch's compiler joined the operations"),
    "rewindctl.collected": ((), "`until_decided`: the run is of a trial that `reproduce --until-decided` added"),
    "rewindctl.updates": (REPLAYED, "replays of a CUDA graph, or eager"),
    "rewindctl.spared_layers": (
        ("prune",),
        "layers that would have become empty: one channel or weight was left in each",
    ),
    "rewindctl.owner": (ALL, "`host:pid:start:boot:namespace` of the process"),
    "rewindctl.heartbeat": (ALL, "Unix seconds of its last sign of life"),
    "rewindctl.ticket": (TRACKED, "place in the queue of processes for one stage"),
    "rewindctl.error": ((), "why a run failed or was killed"),
    "rewindctl.resume_point": (
        (),
        "the artifact that an unfinished run goes on from (`--resume-points store`)",
    ),
    "rewindctl.diverged_iteration": ((), "finished updates when the loss became NaN or infinite"),
    "rewindctl.diverged_learning_rate": ((), "rate of the update that was refused"),
    "rewindctl.study": (("tune", "trial"), "name of the search"),
    "rewindctl.storage": (("tune",), "Optuna's storage, without credentials"),
    "rewindctl.trials": (("tune",), "trials asked for"),
    "rewindctl.trial": (("trial",), "number of the trial, or `best` or `reference` in the comparison"),
    "rewindctl.trial_state": (("trial",), "`complete`, `pruned` (stopped early) or `failed`"),
    "rewindctl.pruned_at": ((), "where a trial was stopped early"),
    "rewindctl.import": ((), "SHA-256 of the bundle that an imported run came with"),
    "rewindctl.imported_from": ((), "ID of an imported run in the registry that it came from"),
    "rewindctl.copied": (
        (),
        "the store that the run was copied from, whose resume point and study it is on this machine",
    ),
    "rewindctl.omitted": ((), "the folder that was left out at export"),
}
# Not names of tags: a kind, what a tag holds, and where MLflow keeps what a data set was for.
NO_TAGS = ("report", "mlflow.data.context", "removed: its files are gone")

FIELDS = {
    "batch_size": "images an update",
    "channel_norm": "batch norm of a removed channel",
    "clock_start": "iteration of the schedule that the learning-rate clock starts at",
    "constant_lr": "learning rate in the place of the schedule",
    "criterion": "what ranks the weights",
    "crop_padding": "pixels around an image before the random crop",
    "data_digest": "SHA-256 of the arrays",
    "dataset": "data set",
    "evaluate_every": "iterations between evaluations",
    "holdout_fraction": "part of the training set that judges",
    "holdout_seed": "which images those are",
    "horizontal_flip": "random flips in training",
    "iteration": "iteration of the dense parent that is pruned; none: the last",
    "iterations": "updates",
    "k": "iteration rewound to, as asked",
    "kind": "kind of the run",
    "learning_rate": "at the start of the schedule; of a search: the fixed one",
    "lr_boundaries": "iterations after which the rate drops",
    "lr_clock": "of weight rewinding: at K, or at 0",
    "lr_factor": "the rate is multiplied by it at each boundary",
    "lr_k": "clock of `rewind`, as asked",
    "method": "retraining method",
    "model": "network",
    "momentum": "of the optimiser; none: that of the dense run",
    "nesterov": "Nesterov momentum",
    "norm_epsilon": "of batch norm",
    "norm_momentum": "of batch norm, PyTorch's (1 - decay)",
    "optimizer_state": "momentum at the start",
    "padding_mode": "what the padding is filled with",
    "parent_fingerprint": "fingerprint of the parent",
    "pruner": "what stops bad trials",
    "recipe": "training recipe that the numbers come from",
    "rewind_points": "iterations whose checkpoints are kept",
    "data_order": "batches after rewound weights: `replayed` or `continued`",
    "from_iteration": "iteration of the state that a replay went on from",
    "sampler": "how points are chosen",
    "sampler_seed": "its seed",
    "schedule_iterations": "length that the schedule's boundaries are for",
    "schema_version": "version of this form",
    "scope": "one ranking for the network, or one a layer",
    "seed": "of initial weights, order and augmentation",
    "seeds": "of the trainings of a trial",
    "space": "JSON: what is searched, and where",
    "sparsity": "fraction of kernel weights asked for",
    "startup_trials": "random points before the sampler starts",
    "structure": "single weights, or channels and rows",
    "study": "name of the search",
    "weight_decay": "PyTorch's, twice the report's L2 coefficient",
    "weight_decay_scope": "what it is applied to",
    "weights_iteration": "iteration that the weights come from",
    "weights_k": "weights of `rewind`, as asked",
}

REPORT_PARAMS = {
    "studies": "studies shown, or `none`",
    "against": "published numbers beside them",
    "scale": "length of the studies' runs",
    "accuracy": "`final` or `best`",
    "delta": "axis of figures",
    "source": "registry or file of the rows",
}

# Metric: the kinds of run that always have it, and what it is. Accuracies are fractions.
METRICS = {
    "train_loss": ((*REPLAYED, "trial"), "by iteration: mean since the last evaluation"),
    "lr": ((*REPLAYED, "trial"), "by iteration: learning rate"),
    "test_loss": (REPLAYED, "by iteration; of a prune run: before retraining; missing where it is not finite"),
    "test_accuracy": (
        (*STAGES, "replay"),
        "by iteration; the last one is the result; of a prune run: before retraining",
    ),
    "test_accuracy_best": (TRAINED, "highest of all evaluations: never the result"),
    "delta_accuracy": (STAGES, "difference from the run's own dense run"),
    "sparsity": (STAGES, "removed / total kernel weights, as achieved"),
    "sparsity_asked": (("prune",), "as asked for"),
    "compression": (STAGES, "total / kept kernel weights"),
    "nonzero_kernel_parameters": (STAGES, "kernel weights kept"),
    "iterations_per_second": ((*TRAINED, "trial"), "speed of the training, evaluations apart"),
    "duration_seconds": (
        (*REPLAYED, "trial"),
        "wall time of the training; of an interrupted one, up to each point that was gone on from too",
    ),
    "system/process_cpu_percentage": (REPLAYED, "of one core, this process alone"),
    "system/process_memory_megabytes": (REPLAYED, "memory of the process"),
    "system/gpu_memory_megabytes": ((), "on a GPU: what its tensors hold"),
    "system/gpu_memory_peak_megabytes": ((), "on a GPU: the most that they held"),
    "system/gpu_utilization_percentage": ((), "on a GPU: of that GPU"),
    "validation_loss": (("trial",), "by iteration, on the held-out part"),
    "validation_accuracy": (("trial",), "by iteration, on the held-out part; with `--seeds N`: their median"),
    "best_validation_accuracy": (("tune",), "of the best trial"),
    "compared_best_accuracy": ((), "median over the comparison's seeds: best point"),
    "compared_reference_accuracy": ((), "the same: fine-tuning at 0.001"),
    "compared_difference": ((), "median of the paired differences"),
    "trials_complete": (("tune",), "trials that ended"),
    "trials_pruned": (("tune",), "trials stopped early"),
    "trials_failed": (("tune",), "trials that diverged"),
    "runs": (("report",), "runs in the report"),
}

# File: the kinds of run that always have it, and what it is.
ARTIFACTS = {
    "spec.json": (TRACKED, "the specification"),
    "environment.json": (TRACKED, "packages, device, driver, threads, flags, git commit"),
    "checkpoints/<iteration>.safetensors": (
        ("dense", "replay"),
        "parameters, buffers, momentum, random state at a rewind point",
    ),
    "checkpoints/final.safetensors": (TRAINED, "the same after the last iteration"),
    "resume/point": ((), "of an unfinished run: what another machine goes on from (`--resume-points store`)"),
    "mask/mask.safetensors": (("prune",), "one bit a kernel weight"),
    "mask/layers.csv": (("prune",), "kept and total weights of each layer"),
    "plots/density.png": (("prune",), "what is left of each layer"),
    "best.json": (("tune",), "best point, the command of a full run, the comparison"),
    "trials.csv": (("tune",), "a row a trial"),
    "plots/history.png": (("tune",), "accuracy by trial"),
    "plots/slices.png": (("tune",), "accuracy by each setting"),
    "plots/importance.png": ((), "of a search with trials enough: how much each setting matters"),
    "report.md": (("report",), "the report; `report.html` is the same with its figures"),
    "report.html": (("report",), "one file, to be sent"),
    "runs.csv": (("report",), "a row a run: what `compare --from` and `reproduce --known` read"),
    "<table or figure>.*": ((), "of a report: tables, and figures as PNG, SVG and CSV"),
    "manifest.json": (ALL, "SHA-256 and size of every other file, written last"),
}

# Read by rewindctl itself.
ENVIRONMENT = {
    "MLFLOW_TRACKING_URI": "store or server where `--tracking-uri` is not given; else `sqlite:///mlflow.db` here",
    "MLFLOW_EXPERIMENT_NAME": "experiment where `--experiment` is not given; else `rewindctl`",
    "MLFLOW_RUN_ID": "set by `mlflow run`: dense runs are nested in that run; it is never resumed",
    "MLFLOW_EXPERIMENT_ID": "set by `mlflow run`: its experiment is used",
    "REWINDCTL_DATA": "folder of data sets where `--data-dir` is not given",
    "XDG_CACHE_HOME": "data sets are in its `rewindctl`; else `~/.cache/rewindctl`",
    "XDG_STATE_HOME": "resume points are in its `rewindctl/resume`; else `~/.local/state/rewindctl/resume`",
    "REWINDCTL_OUTAGE_SECONDS": "how long a tracking server that went away is waited for at the end of a run; 300",
    "NO_COLOR": "no bold and no colour",
    "FORCE_COLOR": "bold and colour also where there is no terminal",
    "TERM": "`dumb`: a terminal without bold and colour",
    "CUDA_VISIBLE_DEVICES": "which GPUs there are, as everywhere with CUDA",
    "CUBLAS_WORKSPACE_CONFIG": "set to `:4096:8` where it is not set: repeatable matrix products",
    "CUDA_DEVICE_MAX_CONNECTIONS": "set to `32` where it is not set: a queue of the GPU for each training on it",
    "MLFLOW_DISABLE_TELEMETRY": "set to `true` where it is not set: MLflow reports nothing to its makers",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "set to `true`: stdout is for data",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "set to `false`",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "`false` for `rewindctl ui` where it is not set: eight processes fewer",
    "REWINDCTL_UI_START": "set by `rewindctl ui` for its server: the page to begin at",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "set to `0` where it is not set: Ray hides no GPU from its workers",
    "RAY_USAGE_STATS_ENABLED": "set to `0` where it is not set: Ray reports nothing to its makers",
}
# Read by MLflow, and so by every command with a server.
ENVIRONMENT_OF_MLFLOW = {
    "MLFLOW_TRACKING_USERNAME": "with `MLFLOW_TRACKING_PASSWORD`: login at a tracking server",
    "MLFLOW_TRACKING_TOKEN": "a bearer token instead",
    "MLFLOW_TRACKING_INSECURE_TLS": "`true`: the server's certificate is not checked",
}

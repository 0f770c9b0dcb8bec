"""What is done with each field of a Triton model configuration: taken, ignored with a warning, or the model refused."""

from typing import Final

from resonnx_server.repository.model_config.triton.text_fields import Path

# Fields that are read; those in them, too, unless they are named below.
TAKEN: Final = frozenset(
    {
        "name",
        "platform",
        "backend",
        "version_policy",
        "max_batch_size",
        "input",
        "output",
        "instance_group",
        "default_model_filename",
        "cc_model_filenames",
        "dynamic_batching",
        "model_warmup",
        # Read, and refused or ignored by their values.
        "model_transaction_policy",
        "parameters",
        "response_cache",
        "runtime",
    }
)

# Fields without an effect on answers, with the reason.
IGNORED: Final = {
    "metric_tags": "metrics have no further labels",
    "model_metrics": "the buckets of histograms are fixed",
    "optimization": "ONNX Runtime optimises graphs; the setting `provider` chooses an accelerator",
    "dynamic_batching.preferred_batch_size": "batch sizes are chosen by their measured times",
    "dynamic_batching.preserve_ordering": "answers of a stream are in the order of its requests anyway",
    "instance_group.name": "instances have no names",
    "instance_group.gpus": "the first GPU is used",
    "instance_group.secondary_devices": "there are none",
    "instance_group.profile": "it is TensorRT's",
    "instance_group.passive": "all instances serve",
    "instance_group.rate_limiter": "devices are shared by the deadlines of models",
    "instance_group.host_policy": "there is one",
}

# Fields that change answers or the protocol, with what to do instead.
REFUSED: Final = {
    "sequence_batching": "models have no state between requests",
    "ensemble_scheduling": "there are no ensembles; call the models one after the other",
    "model_operations": "libraries of custom operators are not loaded",
    "model_repository_agents": "agents, which may change the files, are not run",
    "batch_input": "inputs are not made from the batch",
    "batch_output": "outputs are not scattered from the batch",
}

# Settings of inputs and outputs that change answers if they are true.
REFUSED_IF_TRUE: Final = {
    "is_shape_tensor": "shape tensors are TensorRT's",
    "is_non_linear_format_io": "such formats are TensorRT's",
    "allow_ragged_batch": "only inputs of equal shapes share a batch; remove it",
}


def rule(path: Path, rules: dict[str, str]) -> str | None:
    """Return the reason that `rules` have for a field or for one around it, or None."""
    names = (".".join(path[:length]) for length in range(1, len(path) + 1))
    return next((rules[name] for name in names if name in rules), None)

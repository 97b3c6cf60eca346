"""Read checkpoints of version 0.1, whose options and buffers had other names and places."""

from typing import Any

PACKAGE = "patronus_pl"
BUFFERS = {f"activation_{name}": f"prototypes.{name}" for name in ("mean", "std", "low", "high")}
PENALTIES = {  # slot → its class and what the options were called in 0.1
    "decorrelation": (
        "decorrelation.Decorrelation",
        {"weight": "decorrelation", "floor": "decorrelation_floor", "balance": "balance"},
    ),
    "kurtosis": ("kurtosis.Kurtosis", {"weight": "kurtosis", "warmup": "kurtosis_warmup"}),
    "sparsity": ("sparsity.Sparsity", {"weight": "sparsity", "warmup": "edit_warmup"}),
    "faithfulness": ("faithfulness.Faithfulness", {"weight": "faithfulness", "warmup": "edit_warmup"}),
    "looking": ("looking.Looking", {"weight": "looking", "warmup": "edit_warmup"}),
    "distinctness": ("distinctness.Distinctness", {"weight": "distinctness", "margin": "distinctness_margin"}),
}


def translate(checkpoint: dict[str, Any]) -> None:
    """Bring a checkpoint of version 0.1 into the present form, in place; any other stays as it is.

    Args:
        checkpoint: dictionary with `hyper_parameters`, `state_dict` and, if training kept raw weights beside the
            average, `current_model_state`.
    """
    options = checkpoint.get("hyper_parameters", {})
    if not isinstance(options.get("prediction"), str):
        return
    for name in ("state_dict", "current_model_state"):
        if name in checkpoint:
            checkpoint[name] = {BUFFERS.get(key, key): value for key, value in checkpoint[name].items()}
    checkpoint["hyper_parameters"] = translated(options)


def translated(options: dict[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters of version 0.1 under their present names.

    Args:
        options: flat arguments of the model or the prior, with `prediction: v` or `epsilon`.
    """
    old = dict(options)
    old["prediction"] = _prediction(old)
    if "prototypes" not in old:  # a prior over activations
        return old
    layer = old["prototypes"]
    moved = {name: old.pop(name) for name in ("init", "standardise") if name in old}
    old["prototypes"] = {**layer, "init_args": {**layer["init_args"], **moved}}
    slots = {}
    for slot, (path, names) in PENALTIES.items():
        known = {new: old[name] for new, name in names.items() if name in old}
        slots[slot] = {"class_path": f"{PACKAGE}.objective.{path}", "init_args": known}
    for _, names in PENALTIES.values():
        for name in names.values():
            old.pop(name, None)
    old.pop("revival", None)  # a callback now
    old.pop("weight_decay", None)  # the default of AdamW now; a checkpoint's optimiser keeps its own
    old["objective"] = {"class_path": f"{PACKAGE}.objective.objective.Objective", "init_args": slots}
    return old


def _prediction(old: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the prediction out of `old`, and return it as a part of its own."""
    kind, power = old.pop("prediction"), old.pop("timestep_power", 1.0)
    width, cap = old.pop("skip_width", None), old.pop("weight_cap", None)
    options = {"timestep_power": power}
    if kind == "v":
        options |= {"skip_width": width, "weight_cap": cap}
    name = "Velocity" if kind == "v" else "Epsilon"
    return {"class_path": f"{PACKAGE}.diffusion.prediction.{name}", "init_args": options}

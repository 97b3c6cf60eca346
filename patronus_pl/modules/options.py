"""What a `PatronusModule` may be told."""

from typing import Any

from patronus_pl.errors import InvalidOptionError
from patronus_pl.prototypes import check_names


def check_options(model: Any) -> None:
    """Of a `PatronusModule` in the making, whose attributes are its options.

    Raises:
        InvalidOptionError: parts that do not fit each other, or an option outside its range.
    """
    channels, height, width = model.image_shape
    model.encoder.map_size(height, width)
    fits = (
        ("image_shape[0]", channels, "encoder.channels[0]", model.encoder.channels[0]),
        ("image_shape[0]", channels, "denoiser.image_channels", model.denoiser.image_channels),
        ("encoder.channels[-1]", model.encoder.dim, "prototypes.dim", model.prototypes.dim),
        ("prototypes.count", model.prototypes.count, "denoiser.condition_dim", model.denoiser.condition_dim),
    )
    for left, a, right, b in fits:
        if a != b:
            raise InvalidOptionError(f"{left} is {a} but {right} is {b}; make them equal")
    weights = "decorrelation", "sparsity", "faithfulness", "looking", "kurtosis", "distinctness"
    for name in (*weights, "edit_warmup", "kurtosis_warmup", "revival", "seed"):
        if getattr(model, name) < 0:
            raise InvalidOptionError(f"model.{name} is {getattr(model, name)}; it must not be negative")
    if not -1 <= model.decorrelation_floor <= 0:
        raise InvalidOptionError(
            f"model.decorrelation_floor is {model.decorrelation_floor}; a correlation in [-1, 0] is wanted"
        )
    if model.balance is not None:
        check_names(model.balance)
        if not model.decorrelation:
            raise InvalidOptionError("model.balance is of no use while model.decorrelation is 0; raise it")
    for name in ("skip_width", "weight_cap"):
        value = getattr(model, name)
        if value is not None and value <= 0:
            raise InvalidOptionError(f"model.{name} is {value}; it must be positive, or null for none")
    if model.timestep_power <= 0 or model.lr <= 0:
        raise InvalidOptionError(
            f"model.timestep_power is {model.timestep_power} and model.lr {model.lr}; both must be positive"
        )

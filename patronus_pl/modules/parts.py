"""Whether the parts of a model fit each other, and the data the model."""

from collections.abc import Sequence

from patronus_pl.denoiser import UNet
from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.objective import Masks
from patronus_pl.prototypes import PatchEncoder, PrototypeLayer


def check_parts(
    image_shape: tuple[int, int, int],
    encoder: PatchEncoder,
    prototypes: PrototypeLayer,
    denoiser: UNet,
    masks: Masks | None,
) -> None:
    """Refuse parts of a `PatronusModule` that do not fit each other.

    Raises:
        InvalidOptionError: it names the two numbers that should be equal, or the option that is missing.
    """
    channels, height, width = image_shape
    encoder.map_size(height, width)
    fits = (
        ("image_shape[0]", channels, "encoder.channels[0]", encoder.channels[0]),
        ("image_shape[0]", channels, "denoiser.image_channels", denoiser.image_channels),
        ("encoder.channels[-1]", encoder.dim, "prototypes.dim", prototypes.dim),
        ("prototypes.count", prototypes.count, "denoiser.condition_dim", denoiser.condition_dim),
    )
    for left, a, right, b in fits:
        if a != b:
            raise InvalidOptionError(f"{left} is {a} but {right} is {b}; make them equal")
    if masks is not None and not denoiser.maskable:
        raise InvalidOptionError("model.masks needs a denoiser that can be masked; set model.denoiser.maskable")


def check_shape(takes: tuple[int, int, int], found: Sequence[int] | None) -> None:
    """Refuse data whose images the model does not take.

    Args:
        takes: (channels, height, width) of the model.
        found: the same of the data; None if they do not say.

    Raises:
        CheckpointError: the two differ.
    """
    if found is not None and tuple(found) != takes:
        raise CheckpointError(
            f"the model takes images of shape {takes}, the data have {tuple(found)}; "
            "make model.image_shape and data.image_size (and channels) agree"
        )

"""What a prototype is: the patch that looks most like it once it is turned up (Weng et al. 2026)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.analysis.editing.decoding import encode
from patronus_pl.analysis.editing.jobs import TurnedUp
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.analysis.explain.where import locate
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image


@dataclass(frozen=True)
class What:
    """What `what` found: for each of p prototypes the k images in which it shows best, the best first.

    Attributes:
        turned_up: the pictures from which these were chosen.
        image: (p, k) rows of the given images.
        box: (p, k, 4) pixels of the patch of the edited picture that resembles the prototype most: top, left, bottom,
            right, the last two exclusive.
        patch: (p, k, 2) row and column of this patch in the similarity map.
        requested: (p,) the activation asked for.
        activation_before: (p, k) the prototype's activation in the unedited picture, encoded again.
        activation: (p, k) the same in the edited picture.
    """

    turned_up: TurnedUp
    image: Int[Tensor, "p k"]
    box: Int[Tensor, "p k 4"]
    patch: Int[Tensor, "p k 2"]
    requested: Float[Tensor, " p"]
    activation_before: Float[Tensor, "p k"]
    activation: Float[Tensor, "p k"]

    def before(self, position: int) -> Image:
        """Return the k chosen images of the prototype at that position, decoded unedited; shape (k, c, h, w)."""
        return self.turned_up.unedited[self.image[position]]

    def after(self, position: int) -> Image:
        """Return the same images with the prototype turned up; shape (k, c, h, w)."""
        return torch.stack([self.turned_up.pictures[position, k] for k in self.image[position].tolist()])


@evaluating
def what(model: PatronusModule, turned_up: TurnedUp, keep: int = 1, batch_size: int = 64) -> What:
    """Choose the images in which each prototype, turned up, is most active, and the patch that then resembles it most.

    Args:
        model: the model.
        turned_up: p prototypes turned up in n images; the paper has n = 20.
        keep: k, images a prototype, at most n.
        batch_size: pictures at a time.

    Raises:
        InvalidOptionError: keep < 1.
    """
    if keep < 1:
        raise InvalidOptionError(f"keep is {keep}; keep at least 1 image a prototype")
    index = turned_up.prototypes
    score = turned_up.s.gather(2, index[:, None, None].expand(-1, turned_up.s.shape[1], 1))[..., 0]
    image = score.topk(min(keep, score.shape[1]), dim=1).indices
    found = What(
        turned_up=turned_up,
        image=image,
        box=torch.zeros(*image.shape, 4, dtype=torch.int64),
        patch=torch.zeros(*image.shape, 2, dtype=torch.int64),
        requested=model.activation_high.cpu()[index],
        activation_before=encode(model, turned_up.unedited, batch_size)[image, index[:, None]],
        activation=score.gather(1, image),
    )
    for some in torch.split(torch.arange(len(index)), max(1, batch_size // image.shape[1])):
        place = locate(model, torch.cat([found.after(p) for p in some.tolist()]), batch_size)
        rows, own = torch.arange(len(place.row)), index[some].repeat_interleave(image.shape[1])
        found.box[some] = place.box[rows, own].reshape(len(some), -1, 4)
        found.patch[some] = torch.stack([place.row[rows, own], place.col[rows, own]], -1).reshape(len(some), -1, 2)
    return found

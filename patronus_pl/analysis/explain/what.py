"""What a prototype is: the picture that grows where it is turned up, in the paper's four steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.analysis.disk_array import DiskArray
from patronus_pl.analysis.editing.changes import chosen
from patronus_pl.analysis.editing.decoding import decode, encode
from patronus_pl.analysis.editing.inverting import invert
from patronus_pl.analysis.editing.jobs import jobs
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.analysis.explain.where import locate
from patronus_pl.diffusion.sampling import Sampler, Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image


@dataclass(frozen=True)
class What:
    """What `what` found: for p prototypes, the k images in which each shows best, the best first. All on the CPU.

    Pictures wait in a file: `after[p]` reads those of the p-th prototype.

    Attributes:
        prototypes: (p,) their indices.
        image: (p, k) which of the given images.
        before: (p, k, c, h, w) the image under its own activations, from its inverted noise.
        after: (p, k, c, h, w) from the same noise with the prototype turned up.
        box: (p, k, 4) the patch of `after` that resembles the prototype most: top, left, bottom, right.
        patch: (p, k, 2) row and column of this patch in the similarity map.
        requested: (p,) the activation asked for.
        activation_before: (p, k) the prototype's activation in `before`, encoded again.
        activation: (p, k) the same in `after`.
    """

    prototypes: Int[Tensor, " p"]
    image: Int[Tensor, "p k"]
    before: DiskArray
    after: DiskArray
    box: Int[Tensor, "p k 4"]
    patch: Int[Tensor, "p k 2"]
    requested: Float[Tensor, " p"]
    activation_before: Float[Tensor, "p k"]
    activation: Float[Tensor, "p k"]

    def crop(self, position: int, rank: int = 0, before: bool = False) -> Float[Tensor, "c rows cols"]:
        """The pixels in the box of prototype `prototypes[position]` in its image number `rank`, after or before."""
        top, left, bottom, right = self.box[position, rank].tolist()
        return (self.before if before else self.after)[position, rank][:, top:bottom, left:right]


@evaluating
def what(
    model: PatronusModule,
    images: Image,
    prototypes: Sequence[int] | None = None,
    keep: int = 1,
    steps: int = 20,
    sampler: Sampler = "dpm++",
    batch_size: int = 64,
) -> What:
    """Turn each prototype up and look at the patch that then resembles it most (Weng et al. 2026).

    (1) s = s(x); (2) s'_J = the high end of the prototype's own range, the rest as it was; (3) x' from the inverted x_T
    under s'; (4) the patch of x' that activates p_J most. Kept are the images whose x' activates p_J most.
    Costs n · p images of `steps` steps each.

    Args:
        model: the model, whose `activation_high` is the 98th percentile of its data.
        images: (n, c, h, w) in [-1, 1] to choose from; the paper has n = 20.
        prototypes: which; None for all m.
        keep: k, images a prototype, at most n.
        steps: of inversion and sampler.
        sampler: of the new images.
        batch_size: images at a time.

    Raises:
        InvalidOptionError: keep < 1, or a prototype that does not exist.
    """
    if keep < 1:
        raise InvalidOptionError(f"keep is {keep}; keep at least 1 image a prototype")
    indices = chosen(model, prototypes)
    index = torch.tensor(indices)
    values = model.activation_high.cpu()[index]
    parts = invert(model, images, Sampling(steps, batch_size=batch_size))
    score = torch.zeros(len(index), len(images))
    for job in jobs(parts, indices, values[:, None], batch_size, model.device):
        s = model.encode(model.decode(job.x_T, job.s, steps, sampler))
        score[job.prototype, job.image] = s[torch.arange(len(s)), index[job.prototype]].to(score)
    image = score.topk(min(keep, len(images)), dim=1).indices
    unedited = decode(model, parts.x_T, parts.s, Sampling(steps, sampler, batch_size=batch_size))
    before, after = (DiskArray((*image.shape, *images.shape[1:]), images.dtype) for _ in range(2))
    places = []
    # The best are decoded once more: keeping every picture until the last is known would cost memory, not time.
    for some in torch.split(torch.arange(len(index)), max(1, batch_size // image.shape[1])):
        flat, own = image[some].flatten(), index[some].repeat_interleave(image.shape[1])
        rows, s_new = torch.arange(len(flat)), parts.s[flat]
        s_new[rows, own] = model.activation_high.cpu()[own]
        pictures = decode(model, parts.x_T[flat], s_new, Sampling(steps, sampler, batch_size=batch_size))
        found = locate(model, pictures, batch_size)
        places.append(torch.cat([found.box, found.row[..., None], found.col[..., None]], dim=-1)[rows, own])
        for position, grown in zip(some.tolist(), pictures.reshape(len(some), *after.shape[1:]), strict=True):
            before[position], after[position] = unedited[image[position]], grown
    place = torch.cat(places).reshape(*image.shape, 6)
    return What(
        prototypes=index,
        image=image,
        before=before,
        after=after,
        box=place[..., :4],
        patch=place[..., 4:],
        requested=values,
        activation_before=encode(model, unedited, batch_size)[image, index[:, None]],
        activation=score.gather(1, image),
    )

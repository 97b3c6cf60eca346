"""`PrototypeLayer`: features → distances → activations, and where in the image they come from."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from patronus_pl.errors import InvalidOptionError
from patronus_pl.types import Activations, Features, SimilarityMap, at_least_float32

SMALLEST = 1e-4
"""Smallest standard deviation that is divided by: a constant prototype stays at 0."""


class PrototypeLayer(nn.Module):
    """How strongly each of m learned patterns is present, and where.

    d²_j(u) = ‖z_u - p_j‖²;   sim_j(u) = log((d²_j(u) + 1) / (d²_j(u) + ε));   s_j = pool_u sim_j(u).

    With hard pooling s_j = max_u sim_j(u), the paper's definition; with soft pooling
    s_j = Σ_u softmax_u(τ sim_j(u)) sim_j(u), which sends gradient to every patch that resembles the prototype.
    s_j lies in (0, log(1/ε)] in both.

    Args:
        count: m, how many prototypes.
        dim: D, the length of the encoder's feature vectors.
        similarity: `unit` compares directions (features and prototypes of unit norm, d² ∈ [0, 4]); `euclidean` is the
            paper's plain distance.
        temperature: τ of soft pooling, the same in training and after; None pools hard.
        epsilon: ε < 1, caps the similarity at log(1/ε) ≈ 9.21.
        init: `patches` starts the prototypes from features of real patches, when training begins; `random` leaves them
            uniform in [0, 1), as the paper does.
        standardise: give the denoiser (s - mean) / std; False gives it `s` as it is, as the paper does.

    Attributes:
        mean: (m,) mean of each s_j over training images.
        std: (m,) its standard deviation.
        low: (m,) low end of its range, its 2nd percentile.
        high: (m,) high end of its range, its 98th percentile. Edits move s_j between the two.

    Raises:
        InvalidOptionError: m, D, τ or ε not positive, or ε not below 1.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        count: int,
        dim: int = 128,
        similarity: Literal["unit", "euclidean"] = "unit",
        temperature: float | None = 10.0,
        epsilon: float = 1e-4,
        init: Literal["patches", "random"] = "patches",
        standardise: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("count", count), ("dim", dim), ("temperature", temperature), ("epsilon", epsilon)):
            if value is not None and value <= 0:
                raise InvalidOptionError(f"prototypes.{name} is {value}; it must be greater than 0")
        if epsilon >= 1:
            raise InvalidOptionError(f"prototypes.epsilon is {epsilon}; it must be below 1 (usually 1e-4)")
        self.count, self.dim, self.similarity = count, dim, similarity
        self.temperature, self.epsilon = temperature, epsilon
        self.init, self.standardise = init, standardise
        self.vectors = nn.Parameter(torch.rand(count, dim))  # U[0, 1), the paper's start
        for name, value in (("mean", 0.0), ("std", 1.0), ("low", 0.0), ("high", 1.0)):
            self.register_buffer(name, torch.full((count,), value))

    def distances(self, features: Features) -> Float[Tensor, "b m rows cols"]:
        """Return d²_j(u) at every patch, in float32: bfloat16 would reorder near-ties of the arg-min."""
        with torch.autocast(features.device.type, enabled=False):
            z, p = at_least_float32(features), at_least_float32(self.vectors)
            if self.similarity == "unit":
                z, p = F.normalize(z, dim=1), F.normalize(p, dim=1)
            # ‖z - p‖² = ‖z‖² - 2 z·p + ‖p‖²: never materialises (b, m, D, rows, cols); a 1×1 convolution does z·p.
            cross = F.conv2d(z, p[:, :, None, None])
            squared = z.square().sum(1, keepdim=True) - 2 * cross + p.square().sum(1)[:, None, None]
            return squared.clamp_min(0.0)

    def similarity_map(self, features: Features) -> SimilarityMap:
        """Return sim_j(u) = log((d² + 1) / (d² + ε)): 0 far away, log(1/ε) on the prototype itself."""
        d2 = self.distances(features)
        return torch.log((d2 + 1) / (d2 + self.epsilon))

    def pool(self, similarity: SimilarityMap) -> Activations:
        """Return s_j from its map: the maximum over patches, or the soft one."""
        flat = similarity.flatten(2)
        if self.temperature is None:
            return flat.amax(-1)
        return ((self.temperature * flat).softmax(-1) * flat).sum(-1)

    def forward(self, features: Features) -> Activations:
        """Return the activations `s`, shape (b, m)."""
        return self.pool(self.similarity_map(features))

    def standardised(self, s: Activations) -> Activations:
        """Return (s - mean) / std, which the denoiser is given."""
        return (s - self.mean) / self.std

    def standardised_by_batch(self, s: Activations, momentum: float = 0.02) -> Activations:
        """Standardise by the batch's own statistics, with their gradient, and let the stored ones follow.

        With the gradient, no scale or offset of s can lower the loss. The activations stay as they are if `standardise`
        is False.

        Args:
            s: activations of the batches of all ranks, (all, m).
            momentum: share of the batch in the stored mean and standard deviation.
        """
        if not self.standardise:
            return s
        self.follow(s.detach(), momentum)
        return (s - s.mean(0)) / s.std(0, correction=0).clamp_min(SMALLEST)

    @torch.no_grad()
    def follow(self, s: Activations, momentum: float = 1.0) -> None:
        """Move the stored mean and standard deviation towards those of s; by all of the way for a momentum of 1."""
        if self.standardise and len(s) > 1:
            self.mean.lerp_(s.mean(0), momentum)
            self.std.lerp_(s.std(0, correction=0).clamp_min(SMALLEST), momentum)

    @torch.no_grad()
    def start(self, features: Features, seed: int, broadcast: Callable[[Tensor], Tensor]) -> None:
        """Before the first step of training, take prototypes from real patches, and statistics from real activations.

        Args:
            features: features of the first batch of all ranks.
            seed: seed of the choice of patches.
            broadcast: Return what rank 0 has. Devices may round differently, and near-ties may fall either way.
        """
        if self.init == "patches":
            self.initialise_from(features, torch.Generator().manual_seed(seed))
            self.vectors.copy_(broadcast(self.vectors.data))
        self.follow(self(features))

    @torch.no_grad()
    def initialise_from(self, features: Features, generator: torch.Generator | None = None) -> None:
        """Start from features of real patches, far apart (k-means++ seeding, Arthur & Vassilvitskii 2007).

        A random start far from every feature leaves all similarities, and their gradients, near zero.
        """
        z = at_least_float32(features).movedim(1, -1).reshape(-1, self.dim)
        lit = z.square().sum(1) > 0
        if self.similarity == "unit" and lit.any():
            z = z[lit]  # a prototype of length 0 has no direction to compare, and no gradient of a sensible size
        u = F.normalize(z, dim=1) if self.similarity == "unit" else z
        chosen = int(torch.randint(len(u), (), generator=generator))
        rows, nearest = [chosen], torch.full((len(u),), torch.inf, device=u.device)
        for _ in range(self.count - 1):
            nearest = torch.minimum(nearest, (u - u[rows[-1]]).square().sum(1))
            # With fewer distinct patches than prototypes all weights vanish: fall back to any patch.
            weights = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
            rows.append(int(torch.multinomial(weights.cpu(), 1, generator=generator)))
        self.vectors.copy_(u[rows])

"""`VectorNet`: a network over vectors whose entries have no order, given the timestep t."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from patronus_pl.denoiser.blocks import timestep_embedding
from patronus_pl.errors import InvalidOptionError
from patronus_pl.types import Activations, Timesteps


class VectorNet(nn.Module):
    """A residual perceptron with adaLN-zero time conditioning (Peebles & Xie 2023, "Scalable Diffusion Models").

    h ← h + γ(t) ⊙ MLP((1 + β(t)) ⊙ LayerNorm(h) + α(t)), where every γ starts at 0: each block starts as the identity,
    and the whole network as 0. Nothing is shared between neighbouring entries: prototypes have no order.

    Args:
        size: m, the number of entries of the vector.
        width: number of hidden units.
        blocks: number of residual blocks.
        expansion: hidden units inside a block, times `width`.
        octaves: K, how many doublings of frequency the network is given of each entry beside its value: sin and cos of
            2^k π x, k = 0..K-1 (the Fourier features of Kingma et al. 2021, "Variational Diffusion Models"). Where
            noise is small, the answer changes over differences of its size, which a perceptron of x alone is slow to
            learn to see: 2^-K should be about as small as they are.

    Raises:
        InvalidOptionError: `octaves` is below 0, or any of the others below 1.
    """

    def __init__(self, size: int, width: int = 256, blocks: int = 4, expansion: int = 2, octaves: int = 0) -> None:
        super().__init__()
        for name, value in (("size", size), ("width", width), ("blocks", blocks), ("expansion", expansion)):
            if value < 1:
                raise InvalidOptionError(f"network.{name} is {value}; it must be at least 1")
        if octaves < 0:
            raise InvalidOptionError(f"network.octaves is {octaves}; it must not be negative")
        self.size, self.width, self.blocks, self.expansion, self.octaves = size, width, blocks, expansion, octaves
        # Every row of a batch has a t of its own: a wide embedding of it would cost as much as the rest of the network.
        self.embedding = embedding = max(16, width // 8 * 2)
        self.time = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.first = nn.Linear(size * (1 + 2 * octaves), width)
        self.layers = nn.ModuleList(AdaptiveBlock(width, embedding, expansion) for _ in range(blocks))
        self.last = AdaptiveLinear(width, embedding, size)

    def forward(self, x_t: Activations, t: Timesteps) -> Activations:
        """Return the network's output F, shaped like x_t; `Prediction.clean` says what it means."""
        time = F.silu(self.time(timestep_embedding(t, self.embedding).to(self.first.weight.dtype)))
        h = self.first(self._waves(x_t))
        for layer in self.layers:
            h = layer(h, time)
        output: Tensor = self.last(h, time)
        return output

    def _waves(self, x: Activations) -> Float[Tensor, "b k"]:
        frequencies = torch.pi * 2.0 ** torch.arange(self.octaves, device=x.device)
        angles = (x[:, :, None] * frequencies).flatten(1)
        return torch.cat([x, angles.sin(), angles.cos()], dim=1)


class AdaptiveBlock(nn.Module):
    """h + γ ⊙ MLP((1 + β) ⊙ LayerNorm(h) + α), with α, β, γ linear in the time embedding and 0 at the start."""

    def __init__(self, width: int, embedding: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = _zero(nn.Linear(embedding, 3 * width))
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.SiLU(), nn.Linear(expansion * width, width))

    def forward(self, h: Float[Tensor, "b k"], time: Float[Tensor, "b e"]) -> Float[Tensor, "b k"]:
        """`time` is the embedding after its SiLU."""
        shift, scale, gate = self.modulation(time).chunk(3, dim=1)
        update: Tensor = self.mlp(torch.addcmul(shift, 1 + scale, self.norm(h)))
        return torch.addcmul(h, gate, update)


class AdaptiveLinear(nn.Module):
    """Linear((1 + β) ⊙ LayerNorm(h) + α), 0 at the start."""

    def __init__(self, width: int, embedding: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = _zero(nn.Linear(embedding, 2 * width))
        self.linear = _zero(nn.Linear(width, outputs))

    def forward(self, h: Float[Tensor, "b k"], time: Float[Tensor, "b e"]) -> Float[Tensor, "b m"]:
        """`time` is the embedding after its SiLU."""
        shift, scale = self.modulation(time).chunk(2, dim=1)
        output: Tensor = self.linear(torch.addcmul(shift, 1 + scale, self.norm(h)))
        return output


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear

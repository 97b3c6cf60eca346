"""`VectorNet`: predicts the noise (or velocity) in a vector whose entries have no order, given t."""

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
        size: m, entries of the vector.
        width: hidden units.
        blocks: residual blocks.
        expansion: hidden units inside a block, times `width`.

    Raises:
        InvalidOptionError: a size below 1, or a width that is odd or below 4.
    """

    def __init__(self, size: int, width: int = 256, blocks: int = 4, expansion: int = 2) -> None:
        super().__init__()
        for name, value in (("size", size), ("blocks", blocks), ("expansion", expansion)):
            if value < 1:
                raise InvalidOptionError(f"network.{name} is {value}; it must be at least 1")
        if width < 4 or width % 2:
            raise InvalidOptionError(f"network.width is {width}; it must be even and at least 4")
        self.size, self.width, self.expansion = size, width, expansion
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Linear(size, width)
        self.layers = nn.ModuleList(AdaptiveBlock(width, expansion) for _ in range(blocks))
        self.last = AdaptiveLinear(width, size)

    @property
    def blocks(self) -> int:
        """Residual blocks."""
        return len(self.layers)

    def forward(self, x_t: Activations, t: Timesteps) -> Activations:
        """The network's prediction, shaped like x_t."""
        time = F.silu(self.time(timestep_embedding(t, self.width).to(self.first.weight.dtype)))
        h = self.first(x_t)
        for layer in self.layers:
            h = layer(h, time)
        output: Tensor = self.last(h, time)
        return output


class AdaptiveBlock(nn.Module):
    """h + γ ⊙ MLP((1 + β) ⊙ LayerNorm(h) + α), with α, β, γ linear in the time embedding and 0 at the start."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = _zero(nn.Linear(width, 3 * width))
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width), nn.SiLU(), nn.Linear(expansion * width, width)
        )

    def forward(self, h: Float[Tensor, "b k"], time: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """`time` is the embedding after its SiLU."""
        shift, scale, gate = self.modulation(time).chunk(3, dim=1)
        return h + gate * self.mlp(torch.addcmul(shift, 1 + scale, self.norm(h)))


class AdaptiveLinear(nn.Module):
    """Linear((1 + β) ⊙ LayerNorm(h) + α), 0 at the start."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = _zero(nn.Linear(width, 2 * width))
        self.linear = _zero(nn.Linear(width, outputs))

    def forward(self, h: Float[Tensor, "b k"], time: Float[Tensor, "b k"]) -> Float[Tensor, "b m"]:
        """`time` is the embedding after its SiLU."""
        shift, scale = self.modulation(time).chunk(2, dim=1)
        output: Tensor = self.linear(torch.addcmul(shift, 1 + scale, self.norm(h)))
        return output


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear

"""Edits that move one attribute and hold the others: the other moves take back what a plain edit drags along."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patronus_pl.analysis.audit.intervene import Moves
from patronus_pl.types import Activations


def compensation(
    effects: Float[Tensor, "p a"], target: int, wanted: float, hold: Bool[Tensor, " a"], ridge: float = 0.01
) -> Float[Tensor, " p"]:
    """Return how much of each move to make so that one attribute moves as wanted and the held ones stay, shape (p,).

        min_c (Σ_k c_k E_kt − wanted)² + Σ_{b held} (Σ_k c_k E_kb)² + λ ‖c‖²,   λ = ridge · ‖E‖² / p,

    then scaled so that Σ_k c_k E_kt = wanted. The ridge keeps the mixture from moving far to undo mere noise.

    Args:
        effects: E, what each of p moves does to each of a attributes, in their standard deviations.
        target: t, the attribute to move.
        wanted: how far it is to move, in its standard deviations.
        hold: the attributes to hold; an entry for the target is ignored.
        ridge: λ as a share of the mean squared norm of a row of E.
    """
    columns = hold.clone()
    columns[target] = True
    e = effects[:, columns].double()
    goal = (torch.arange(effects.shape[1]) == target)[columns].double() * wanted
    weight = (ridge * e.square().sum() / len(e)).clamp_min(1e-12)
    c: Tensor = torch.linalg.solve(e @ e.T + weight * torch.eye(len(e), dtype=e.dtype), e @ goal)
    reached = c @ effects[:, target].double()
    return (c * wanted / reached).to(effects) if float(reached.abs()) > 1e-9 else c.to(effects)


def compensated_moves(
    moves: Moves, effects: Float[Tensor, "p a"], hold: Bool[Tensor, "p a"], s: Activations, ridge: float = 0.01
) -> Moves:
    """Replace each move by the mixture of all moves that does the same to its own attribute and least to the others.

    A mixture of straight moves is a straight move: Δz = Σ_k c_k size_k v_k. It keeps its length, and is centred on the
    range of real images along it.

    Args:
        moves: the plain moves.
        effects: what they do, as measured, in standard deviations of the attributes, shape (p, a).
        hold: which attributes each move is to hold, shape (p, a).
        s: activations of real images, shape (n, m).
        ridge: see `compensation`.
    """
    steps = moves.size[:, None] * moves.direction
    mixtures = [
        compensation(effects, a, float(effects[k, a]), hold[k], ridge) @ steps for k, a in enumerate(moves.own.tolist())
    ]
    change = torch.stack(mixtures)
    length = change.norm(dim=1)
    direction = change / length.clamp_min(1e-12)[:, None]
    along = ((s - moves.mean) / moves.std) @ direction.T
    centre = along.quantile(torch.tensor([0.02, 0.98]), dim=0).mean(0)
    low, high = centre - length / 2, centre + length / 2
    return Moves(moves.names, moves.own, direction, low, high, moves.mean, moves.std)

"""The cost card: parameters, FLOPs and time of a model, beside a plain diffusion model of the same U-Net."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from patronus_pl.diffusion.sampling import Sampler, Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Activations, Image

COST_BATCH = 16
"""Images at a time, whatever the batch size of an evaluation: times of different batch sizes cannot be compared."""
TIMED_STEPS = 4
"""Number of sampler steps that are timed; every other step takes as long."""


@dataclass(frozen=True)
class Cost:
    """What one model costs, in float32.

    Attributes:
        parameters: number of trained parameters.
        flops_per_evaluation: FLOPs of the denoiser for one image; a multiplication with an addition counts as two.
        flops_per_image: FLOPs of encoding an image and sampling it again.
        training_images_per_second: speed of forward pass, backward pass and AdamW together.
        seconds_per_image: time of sampling an image, in a batch.
    """

    parameters: int
    flops_per_evaluation: int
    flops_per_image: int
    training_images_per_second: float
    seconds_per_image: float


@dataclass(frozen=True)
class CostCard:
    """The cost of a model, and of the same U-Net without activations, measured in the same way.

    Attributes:
        model: encoder, prototypes and denoiser.
        unconditional: a plain diffusion model, without the layers that take activations in.
        protocol: how both were measured.
    """

    model: Cost
    unconditional: Cost
    protocol: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Return plain numbers, for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return a few lines of text: each number of both models, and their ratio."""
        ours, plain = asdict(self.model), asdict(self.unconditional)
        rows = [("", "model", "unconditional", "ratio")]
        rows += [
            (name.replace("_", " "), f"{ours[name]:.4g}", f"{plain[name]:.4g}", f"{ours[name] / plain[name]:.2f}")
            for name in ours
        ]
        return "\n".join(f"{a:<28}{b:>12}{c:>16}{d:>8}" for a, b, c, d in rows)


def cost(model: PatronusModule, sampling: Sampling = Sampling(batch_size=COST_BATCH), repeats: int = 3) -> CostCard:
    """Measure a model and its unconditional twin on the device of the model, whose weights stay as they are.

    Args:
        model: a trained model.
        sampling: steps (of which a few are timed), sampler (`ddim` or `dpm++`), batch size, and the seed of the images.
        repeats: number of timed runs, whose median counts.

    Raises:
        InvalidOptionError: a number is below 1.
    """
    for name, value in (("steps", sampling.steps), ("batch_size", sampling.batch_size), ("repeats", repeats)):
        if value < 1:
            raise InvalidOptionError(f"cost: {name} is {value}; it must be at least 1")
    # Callers evaluate in inference mode, in which nothing can be trained.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        generator = torch.Generator().manual_seed(sampling.seed)
        x = torch.rand(sampling.batch_size, *model.image_shape, generator=generator) * 2 - 1
        runs = [_Run(copy.deepcopy(model), True, x), _Run(unconditional(model), False, x)]
        costs = [_cost(run, sampling, repeats) for run in runs]
    protocol = {
        "steps": sampling.steps,
        "sampler": sampling.sampler,
        "batch_size": sampling.batch_size,
        "precision": "float32",
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
    }
    return CostCard(costs[0], costs[1], protocol)


def unconditional(model: PatronusModule) -> PatronusModule:
    """Return a copy whose denoiser has lost the layers that take activations in, so that it ignores them."""
    twin = copy.deepcopy(model)
    twin.denoiser.condition = _Nothing(4 * twin.denoiser.base)  # type: ignore[assignment]
    for block in twin.denoiser.modules():
        if isinstance(getattr(block, "condition", None), nn.Linear):
            block.condition = _Nothing()
    return twin


class _Nothing(nn.Module):
    """Return zeros in place of a linear layer: shape (b, width), or a single zero that broadcasts."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(() if self.width is None else (len(x), self.width))


class _Run:
    """A model, and the data that it is measured with."""

    def __init__(self, model: PatronusModule, conditional: bool, x: Image) -> None:
        self.model, self.conditional, self.x = model, conditional, x.to(model.device)
        trained = model if conditional else model.denoiser
        self.parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]

    def activations(self, x: Image) -> Activations:
        """Return the activations of images; the unconditional twin gets zeros, which cost nothing."""
        return self.model.encode(x) if self.conditional else x.new_zeros(len(x), self.model.prototypes.count)

    def training(self) -> Callable[[], None]:
        """Return a function that takes one training step."""
        optimiser = torch.optim.AdamW(self.parameters, lr=1e-6)
        self.model.train()

        def step() -> None:
            t = torch.randint(self.model.schedule.timesteps, (len(self.x),), device=self.x.device)
            noise = torch.randn_like(self.x)
            denoise = self.model.denoiser_for(self.activations(self.x))
            clean = denoise(self.model.schedule.add_noise(self.x, noise, t), t)
            loss = self.model.prediction.loss(self.x, clean, t, self.model.schedule).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()

        return step

    def evaluating(self, evaluations: int) -> None:
        """Encode one image, and denoise it so many times."""
        self.model.eval()
        x, t = self.x[:1], torch.zeros(1, dtype=torch.long, device=self.x.device)
        denoise = self.model.denoiser_for(self.activations(x))
        for _ in range(evaluations):
            denoise(x, t)

    def sampling(self, steps: int, sampler: Sampler) -> None:
        """Encode the batch and sample it."""
        self.model.eval()
        with torch.inference_mode():
            self.model.decode(torch.randn_like(self.x), self.activations(self.x), steps, sampler)


def _cost(run: _Run, sampling: Sampling, repeats: int) -> Cost:
    # With gradients: without, attention takes a fused path whose FLOPs are not counted.
    once, twice = (count_flops(lambda n=n: run.evaluating(n)) for n in (1, 2))  # type: ignore[misc]
    timed = min(sampling.steps, TIMED_STEPS)
    seconds_per_step = _seconds(lambda: run.sampling(timed, sampling.sampler), repeats) / timed
    return Cost(
        parameters=sum(parameter.numel() for parameter in run.parameters),
        flops_per_evaluation=twice - once,
        flops_per_image=once + (sampling.steps - 1) * (twice - once),
        training_images_per_second=len(run.x) / _seconds(run.training(), repeats),
        seconds_per_image=seconds_per_step * sampling.steps / len(run.x),
    )


def count_flops(function: Callable[[], None]) -> int:
    """Return the FLOPs of the matrix products and convolutions of a function, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        function()
    total: int = counter.get_total_flops()
    return total


def _seconds(function: Callable[[], None], repeats: int) -> float:
    """Return the median time of some runs, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return median(times[1:])

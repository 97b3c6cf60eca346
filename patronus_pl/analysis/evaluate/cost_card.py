"""The cost card: parameters, FLOPs, time and memory of a model, beside a plain diffusion model of the same U-Net."""

import copy
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from patronus_pl.diffusion.sampling import Sampler
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Activations, Image

TIMED_STEPS = 4
"""Sampler steps that are timed; all others take as long."""


@dataclass(frozen=True)
class Cost:
    """What one model costs; in float32.

    Attributes:
        parameters: all that are trained.
        flops_per_evaluation: of the denoiser, for one image; a multiplication with addition counts as two.
        flops_per_image: of encoding an image and sampling it again.
        training_images_per_second: forward, backward and AdamW.
        seconds_per_image: of sampling, in a batch.
        training_megabytes: most that tensors took in a training step, weights and optimiser included.
        sampling_megabytes: the same while sampling.
    """

    parameters: int
    flops_per_evaluation: int
    flops_per_image: int
    training_images_per_second: float
    seconds_per_image: float
    training_megabytes: float
    sampling_megabytes: float


@dataclass(frozen=True)
class CostCard:
    """The model, and the same U-Net without activations; measured in the same way.

    Attributes:
        model: encoder, prototypes and denoiser.
        unconditional: a plain diffusion model: the layers that take activations in are gone.
        protocol: how it was measured.
    """

    model: Cost
    unconditional: Cost
    protocol: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)

    def table(self) -> str:
        """A few lines of text."""
        ours, plain = asdict(self.model), asdict(self.unconditional)
        rows = [("", "model", "unconditional", "ratio")]
        rows += [
            (name.replace("_", " "), f"{ours[name]:.4g}", f"{plain[name]:.4g}", f"{ours[name] / plain[name]:.2f}")
            for name in ours
        ]
        return "\n".join(f"{a:<28}{b:>12}{c:>16}{d:>8}" for a, b, c, d in rows)


def cost(
    model: PatronusModule, steps: int = 20, sampler: Sampler = "dpm++", batch_size: int = 16, repeats: int = 3
) -> CostCard:
    """Measure a model and its unconditional twin on the device of the model, whose weights stay as they are.

    Args:
        model: the model.
        steps: of the sampler; a few are timed.
        sampler: `ddim` or `dpm++`.
        batch_size: images at a time.
        repeats: of each timed run, whose median counts.

    Raises:
        InvalidOptionError: a number below 1.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("repeats", repeats)):
        if value < 1:
            raise InvalidOptionError(f"cost: {name} is {value}; it must be at least 1")
    # Callers evaluate in inference mode, in which nothing can be trained.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        x = torch.rand(batch_size, *model.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        runs = [_Run(copy.deepcopy(model), True, x), _Run(unconditional(model), False, x)]
        costs = [_cost(run, steps, sampler, repeats) for run in runs]
    protocol = {
        "steps": steps,
        "sampler": sampler,
        "batch_size": batch_size,
        "precision": "float32",
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
    }
    return CostCard(costs[0], costs[1], protocol)


def unconditional(model: PatronusModule) -> PatronusModule:
    """A copy whose denoiser has lost the layers that take activations in; whatever s it is given says nothing."""
    twin = copy.deepcopy(model)
    twin.denoiser.condition = _Nothing(4 * twin.denoiser.base)  # type: ignore[assignment]
    for block in twin.denoiser.modules():
        if isinstance(getattr(block, "condition", None), nn.Linear):
            block.condition = _Nothing()
    return twin


class _Nothing(nn.Module):
    """Zeros instead of a linear layer: (b, width), or a single one that broadcasts."""

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
        """Of the images; zeros cost nothing where they are not used."""
        return self.model.encode(x) if self.conditional else x.new_zeros(len(x), self.model.prototypes.count)

    def training(self) -> Callable[[], None]:
        """A function that takes one step."""
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
        """Encode one image and denoise it that often."""
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


def _cost(run: _Run, steps: int, sampler: Sampler, repeats: int) -> Cost:
    # With gradients: without, attention takes a fused path whose FLOPs are not counted.
    once, twice = (_flops(lambda n=n: run.evaluating(n)) for n in (1, 2))  # type: ignore[misc]
    timed = min(steps, TIMED_STEPS)
    weights = sum(tensor.nbytes for tensor in (*run.parameters, *run.model.buffers()))
    sampling = _seconds(lambda: run.sampling(timed, sampler), repeats) / timed
    step = run.training()
    return Cost(
        parameters=sum(parameter.numel() for parameter in run.parameters),
        flops_per_evaluation=twice - once,
        flops_per_image=once + (steps - 1) * (twice - once),
        training_images_per_second=len(run.x) / _seconds(step, repeats),
        seconds_per_image=sampling * steps / len(run.x),
        sampling_megabytes=(weights + peak_bytes(lambda: run.sampling(1, sampler))) / 1e6,
        training_megabytes=(weights + peak_bytes(run.training())) / 1e6,
    )


def _flops(function: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    total: int = counter.get_total_flops()
    return total


def _seconds(function: Callable[[], None], repeats: int) -> float:
    """Median of some runs, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return median(times[1:])


def peak_bytes(function: Callable[[], None]) -> int:
    """The most bytes that tensors made by a function took at one time; the scratch memory of kernels does not count."""
    with LiveBytes() as live:
        function()
    peak: int = live.peak
    return peak


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors from when an operation returns them until the last reference is gone.

    Attributes:
        peak: most at one time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, kwargs = tree_leaves((args, kwargs or {})), kwargs or {}
        before = [value.untyped_storage() for value in given if isinstance(value, Tensor)]
        result = func(*args, **kwargs)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage(), before)
        return result

    def _add(self, storage: torch.UntypedStorage, before: list[torch.UntypedStorage]) -> None:
        if storage in self._known or any(storage.data_ptr() == other.data_ptr() for other in before):
            return
        self._known[storage] = True
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, storage.nbytes())

    def _remove(self, size: int) -> None:
        self.now -= size

"""`counting`: a progress bar over images that pass the denoiser."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from tqdm import tqdm


@contextmanager
def counting(denoiser: nn.Module, total: int, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """Show a progress bar that counts the images passing the denoiser, where nearly all the time goes.

    Args:
        denoiser: the network whose inputs are counted.
        total: how many images will pass it.
        shown: False shows nothing.

    Yields:
        a function that sets the label of the bar.
    """
    with tqdm(total=total, unit="img", unit_scale=True, smoothing=0.05, disable=not shown) as bar:

        def count(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            bar.update(len(inputs[0]))

        hook = denoiser.register_forward_hook(count)
        try:
            yield bar.set_description
        finally:
            hook.remove()

"""Ranges against NumPy's quantiles, and that a model which has some keeps them."""

import numpy as np
import torch

from patronus_pl.analysis.ranges import ranges, set_ranges, unmeasured
from patronus_pl.modules import PatronusModule
from tests.analysis.painter import images, painter


def test_ranges_are_quantiles() -> None:
    s = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    for found, quantile in zip(ranges(s), (0.02, 0.98), strict=True):
        np.testing.assert_allclose(found.numpy(), np.quantile(s.numpy(), quantile, axis=0), rtol=1e-5)


def test_a_fresh_model_is_unmeasured_until_it_is_measured(tiny_model: PatronusModule) -> None:
    assert unmeasured(tiny_model)
    x = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    set_ranges(tiny_model, tiny_model.encode(x).detach())
    assert not unmeasured(tiny_model)
    s = tiny_model.encode(x).detach().numpy()
    np.testing.assert_allclose(tiny_model.activation_high.numpy(), np.quantile(s, 0.98, axis=0), rtol=1e-4)
    changed = {name for name, value in tiny_model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"prototypes.low", "prototypes.high"}


def test_ranges_that_were_measured_are_known() -> None:
    model = painter()
    assert not unmeasured(model)
    set_ranges(model, model.encode(images(50)))
    assert (model.activation_high - model.activation_low).min() > 0.8  # of a width of 1

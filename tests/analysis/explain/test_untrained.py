import numpy as np
import pytest
import torch

from patronus_pl.analysis.explain.untrained import untrained


class TestUntrained:
    def test_has_fresh_weights_and_ranges_of_its_own(self, tiny_model):
        x = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        state = torch.get_rng_state()
        null = untrained(tiny_model, x, seed=7)
        assert torch.equal(torch.get_rng_state(), state)
        old, new = tiny_model.state_dict(), null.state_dict()
        assert {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in old.items()}
        assert not any(torch.equal(new[k], old[k]) for k in new if k.endswith("weight") and new[k].ndim > 1)
        s = null.encode(x).detach()
        assert null.activation_high == pytest.approx(np.quantile(s, 0.98, axis=0), rel=1e-4)
        assert null.prototypes.standardised(s).std(0, correction=0) == pytest.approx(1, rel=1e-3)
        assert s.amax() > 5  # prototypes are features of patches of these images

    def test_depends_on_the_seed(self, tiny_model):
        x = torch.rand(4, 1, 16, 16)
        one, again, other = (untrained(tiny_model, x, seed) for seed in (1, 1, 2))
        assert torch.equal(one.denoiser.first.weight, again.denoiser.first.weight)
        assert not torch.equal(one.denoiser.first.weight, other.denoiser.first.weight)

    def test_can_still_be_trained(self, tiny_model):
        null = untrained(tiny_model, torch.rand(4, 1, 16, 16))
        null.encode(torch.rand(2, 1, 16, 16)).sum().backward()
        assert null.encoder.layers[0].weight.grad is not None

import pytest
import torch

from patronus_pl.analysis.evaluating import evaluating


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(tiny_model, training):
    tiny_model.train(training)

    @evaluating
    def look(model, value):
        """Doc."""
        return model.training, model.denoiser.training, torch.is_grad_enabled(), value

    assert look(tiny_model, value=3) == (False, False, False, 3)
    assert (tiny_model.training, tiny_model.denoiser.training) == (training, training)
    assert torch.is_grad_enabled()
    assert (look.__name__, look.__doc__) == ("look", "Doc.")


def test_also_after_an_error(tiny_model):
    tiny_model.train()

    @evaluating
    def fail(model):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail(tiny_model)
    assert tiny_model.training

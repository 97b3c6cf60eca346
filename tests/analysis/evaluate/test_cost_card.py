"""FLOPs that can be counted by hand, and a twin without activations."""

import pytest
import torch

from patronus_pl.analysis.evaluate.cost_card import Cost, CostCard, cost, count_flops, unconditional
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from tests.analysis.subjects import tiny_model
from tests.conftest import ModelFactory


@pytest.fixture(scope="module")
def card() -> CostCard:
    model = tiny_model(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():  # as in `trainer.test`
        found = cost(model, Sampling(steps=10, batch_size=2), repeats=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return found


def test_parameters_are_all_and_those_of_the_denoiser_without_its_condition(make_model: ModelFactory) -> None:
    model = make_model(channels=3)
    conditional = sum(p.numel() for name, p in model.denoiser.named_parameters() if "condition" in name)
    total = sum(p.numel() for p in model.denoiser.parameters())
    found = cost(model, Sampling(steps=1, batch_size=1), repeats=1)
    assert found.model.parameters == sum(p.numel() for p in model.parameters())
    assert found.unconditional.parameters == total - conditional
    assert conditional > 0


def test_the_twin_does_not_see_activations(make_model: ModelFactory) -> None:
    model = make_model()
    x, t = torch.rand(2, 1, 16, 16), torch.tensor([3, 500])
    twin = unconditional(model)
    with torch.no_grad():
        a, b = (twin.denoise(x, t, torch.full((2, 3), value)) for value in (0.0, 5.0))
        c, d = (model.denoise(x, t, torch.full((2, 3), value)) for value in (0.0, 5.0))
    assert torch.equal(a, b)
    assert not torch.equal(c, d)


def test_the_twin_computes_what_a_denoiser_whose_condition_is_zero_does(make_model: ModelFactory) -> None:
    model = make_model()
    x, t, s = torch.rand(2, 1, 16, 16), torch.tensor([3, 500]), torch.rand(2, 3)
    twin = unconditional(model)
    with torch.no_grad():
        for name, parameter in model.denoiser.named_parameters():
            if "condition" in name:
                parameter.zero_()
        torch.testing.assert_close(twin.denoise(x, t, s), model.denoise(x, t, s))


def test_an_image_takes_its_encoding_and_an_evaluation_a_step(card: CostCard) -> None:
    ours, plain = card.model, card.unconditional
    assert ours.flops_per_image > 10 * ours.flops_per_evaluation
    assert plain.flops_per_image == 10 * plain.flops_per_evaluation
    assert ours.flops_per_evaluation > plain.flops_per_evaluation  # the linear layers in the blocks
    assert ours.flops_per_evaluation < 1.05 * plain.flops_per_evaluation


def test_flops_of_a_convolution_are_counted_as_by_hand() -> None:
    layer, x = torch.nn.Conv2d(3, 5, 3, padding=1), torch.rand(2, 3, 7, 7)
    assert count_flops(lambda: layer(x)) == 2 * 2 * 7 * 7 * 5 * 3 * 9


def test_numbers_are_positive_and_in_a_table(card: CostCard) -> None:
    for found in (card.model, card.unconditional):
        assert min(vars(found).values()) > 0
    assert card.summary()["protocol"]["device"] == "CPU"
    lines = card.table().splitlines()
    assert len(lines) == 1 + len(vars(card.model))
    assert lines[1].split()[0] == "parameters"


def test_a_table_shows_ratios() -> None:
    a, b = Cost(200, 20, 30, 5.0, 2.0), Cost(100, 10, 10, 10.0, 1.0)
    ratios = [line.split()[-1] for line in CostCard(a, b, {}).table().splitlines()[1:]]
    assert ratios == ["2.00", "2.00", "3.00", "0.50", "2.00"]


@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_impossible_sampling(make_model: ModelFactory, name: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"{name} is 0; it must be at least 1"):
        cost(make_model(), Sampling(**{name: 0}))


def test_impossible_repeats(make_model: ModelFactory) -> None:
    with pytest.raises(InvalidOptionError, match="repeats is 0; it must be at least 1"):
        cost(make_model(), repeats=0)

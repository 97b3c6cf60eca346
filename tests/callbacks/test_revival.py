from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from patronus_pl.callbacks import Revival
from patronus_pl.callbacks.revival import Idle, find_idle, start_again
from patronus_pl.denoiser import UNet
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.prototypes import PatchEncoder, PrototypeLayer, ReceptiveField
from tests.conftest import ModelFactory
from tests.modules.faces import Faces, images, make_trainer

FIELD = ReceptiveField.of((3, 3), (2, 1), (1, 0))


def painting(strength: torch.Tensor) -> Any:
    """Entry j of the condition brightens row j."""

    def paint(condition: torch.Tensor) -> torch.Tensor:
        image = torch.zeros(len(condition), 1, 12, 12)
        image[:, 0, : condition.shape[1]] = (condition * strength)[..., None]
        return image

    return paint


def scene(strength: list[float], spot: float = 1.0, dark: bool = False) -> Idle | None:
    """Images as painted, but for a bright spot at the lower right that no prototype paints."""
    paint = painting(torch.tensor(strength))
    condition = torch.randn(16, len(strength), generator=torch.Generator().manual_seed(0))
    x_0 = paint(condition)
    x_0[:, :, 10:, 10:] = spot
    rows, cols = PatchEncoder((1, 1, 1), (3, 3), (2, 1), (1, 0)).map_size(12, 12)
    features = torch.arange(rows * cols).reshape(1, 1, rows, cols).expand(16, 2, rows, cols).float()
    return find_idle(paint, x_0, condition, features * (not dark), FIELD, seed=0)


def test_an_idle_prototype_starts_where_the_picture_is_worst() -> None:
    found = scene([1.0, 0.0, 0.8])
    assert found is not None
    assert found.prototype == 1
    rows, cols = PatchEncoder((1, 1, 1), (3, 3), (2, 1), (1, 0)).map_size(12, 12)
    row, col = divmod(int(found.vector[0]), cols)
    _, _, bottom, right = FIELD.box(row, col, 12, 12)
    assert bottom > 10
    assert right > 10
    assert rows == cols


def test_prototypes_that_all_matter_stay() -> None:
    assert scene([1.0, 0.5, 0.8]) is None


def test_who_moves_little_but_moves_it_is_not_idle() -> None:
    """The second of three paints a single pixel, the third a faint change of the whole picture."""

    def paint(condition: torch.Tensor) -> torch.Tensor:
        image = 0.01 * condition[:, 2, None, None, None].expand(-1, 1, 12, 12).clone()
        image[:, 0, :6] += condition[:, 0, None, None]
        image[:, 0, 8, 8] += condition[:, 1]
        return image

    condition = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    x_0 = paint(condition) + 1
    found = find_idle(paint, x_0, condition, torch.ones(16, 2, 6, 6), FIELD, seed=0)
    assert found is not None
    assert found.prototype == 2


def test_nothing_to_start_from_is_no_start() -> None:
    """Neither where all is painted well, nor at patches whose features are 0 and have no direction."""
    assert scene([1.0, 0.0, 0.8]) is not None
    assert scene([1.0, 0.0, 0.8], spot=0.0) is None
    assert scene([1.0, 0.0, 0.8], dark=True) is None


def test_a_prototype_that_starts_again_is_forgotten() -> None:
    torch.manual_seed(0)
    layer, net = PrototypeLayer(3, 4), UNet(1, 3, base=8, multipliers=(1,), groups=4)
    first = net.condition_input
    assert first.in_features == 3
    optimizer = torch.optim.AdamW([layer.vectors, first.weight], lr=1e-3)
    (layer.vectors.sum() + net.embed_condition(torch.randn(2, 3)).sum()).backward()
    optimizer.step()
    vectors, weight = layer.vectors.detach().clone(), first.weight.detach().clone()
    start_again(layer, first, Idle(1, torch.tensor([0.0, 3.0, 0.0, 4.0])), optimizer)
    length = vectors.norm(dim=1).mean()
    np.testing.assert_allclose(layer.vectors[1].detach(), length * torch.tensor([0, 0.6, 0, 0.8]), rtol=1e-5)
    assert torch.equal(layer.vectors[[0, 2]], vectors[[0, 2]])
    assert not first.weight[:, 1].any()
    assert torch.equal(first.weight[:, [0, 2]], weight[:, [0, 2]])
    for parameter, mine, others in (
        (layer.vectors, (1,), ([0, 2],)),
        (first.weight, (slice(None), 1), (slice(None), [0, 2])),
    ):
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not optimizer.state[parameter][moment][mine].any()
            assert optimizer.state[parameter][moment][others].any()


def test_a_euclidean_prototype_becomes_the_patch() -> None:
    layer, net = PrototypeLayer(3, 4, similarity="euclidean"), UNet(1, 3, base=8, multipliers=(1,), groups=4)
    optimizer = torch.optim.AdamW([layer.vectors, net.condition_input.weight])
    start_again(layer, net.condition_input, Idle(2, torch.tensor([0.0, 3.0, 0.0, 4.0])), optimizer)
    assert layer.vectors[2].tolist() == [0, 3, 0, 4]


class Looks(pl.Callback):
    """After which step a prototype was first said to start again, and which one."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        revived = trainer.callback_metrics.get("train/revived")
        if revived is not None and trainer.global_step not in [step for step, _ in self.seen]:
            self.seen.append((trainer.global_step, int(revived)))


def idle_model(make_model: ModelFactory) -> PatronusModule:
    """A model that stays as it is, whose second prototype changes nothing of the picture."""
    model = make_model(lr=1e-12, prototypes={"init": "random"}, denoiser={"additive_condition": True, "dropout": 0.0})
    with torch.no_grad():
        model.denoiser.condition_input.weight[:, 1] = 0.0
    return model


def test_idle_prototypes_are_looked_for_in_the_first_half(make_model: ModelFactory) -> None:
    """Eight steps, a look every other one. The first is the start itself; from the fourth on it is too late."""
    model, looks = idle_model(make_model), Looks()
    before = model.prototypes.vectors.detach().clone()
    trainer = make_trainer(max_epochs=2, limit_val_batches=0, callbacks=[Revival(every=2), looks])
    trainer.fit(model.train(), Faces())
    assert looks.seen[0] == (3, 1)  # logged before the third step was taken
    assert trainer.callback_metrics["train/revived"] == 1
    after = model.prototypes.vectors.detach()
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])
    features = torch.nn.functional.normalize(model.encoder(images(16)), dim=1).detach()
    cosine = features.movedim(1, -1).reshape(-1, 16) @ torch.nn.functional.normalize(after[1], dim=0)
    assert cosine.max() > 0.999  # it is a real patch now
    assert not model.denoiser.condition_input.weight[:, 1].abs().gt(1e-9).any()


@pytest.mark.parametrize("every", [3, 4, 100])
def test_nothing_starts_again_when_it_is_not_time(make_model: ModelFactory, every: int) -> None:
    """Of eight steps the first half has the numbers 0 to 3, and 3 is the only one that 3 divides."""
    model = idle_model(make_model)
    before = model.prototypes.vectors.detach().clone()
    trainer = make_trainer(max_epochs=2, limit_val_batches=0, callbacks=[Revival(every=every)])
    trainer.fit(model.train(), Faces())
    assert ("train/revived" in trainer.callback_metrics) == (every == 3)
    assert torch.allclose(model.prototypes.vectors, before) == (every != 3)


def test_an_impossible_interval(tiny_model: PatronusModule) -> None:
    with pytest.raises(InvalidOptionError, match=r"Revival.every is 0; it must be at least 1"):
        make_trainer(callbacks=[Revival(every=0)]).fit(tiny_model.train(), Faces())

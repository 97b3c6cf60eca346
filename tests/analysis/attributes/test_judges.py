"""Judges, and what they are worth: against scikit-learn, and on pictures whose attributes are known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor

from patronus_pl.analysis.attributes.judges import (
    NamedJudge,
    NearestPortrait,
    ProbeJudge,
    SmallCNN,
    assess,
    judged,
    train_judge,
)
from patronus_pl.data.planted_faces import draw
from patronus_pl.data.planted_templates import every_portrait
from patronus_pl.errors import InvalidOptionError
from patronus_pl.pixels import as_floats
from tests.analysis.painter import paint, painter


def attributes(n: int, a: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (n, a), generator=torch.Generator().manual_seed(seed)).float()


def quarters(y: Tensor, noise: float = 0.1) -> Tensor:
    """Pictures whose quarters are light where the attribute is there."""
    level = 0.5 * y - 0.25 + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return paint(level)


def read(images: Tensor) -> Tensor:
    """The grey level of each quarter."""
    return images.reshape(-1, 2, 4, 2, 4).mean((2, 4)).flatten(1).add(0.5).clamp(0, 1)


def test_quality_is_that_of_scikit_learn() -> None:
    y = attributes(300)
    x = quarters(y, noise=0.3)
    scores, found = read(x), assess(read, x, y)
    for b in range(4):
        assert found.auroc[b].item() == pytest.approx(roc_auc_score(y[:, b], scores[:, b]), abs=1e-6)
        right = balanced_accuracy_score(y[:, b], scores[:, b] > 0.5)
        assert found.accuracy[b].item() == pytest.approx(right, abs=1e-6)
        on = y[:, b] == 1
        assert found.gain[b].item() == pytest.approx((scores[on, b].mean() - scores[~on, b].mean()).item(), abs=1e-6)
    assert found.usable.all()


def test_the_interval_of_the_auroc_is_about_that_of_the_bootstrap() -> None:
    y = attributes(200)
    x, rng = quarters(y, noise=0.4), np.random.default_rng(0)
    scores, found = read(x), assess(read, x, y)
    draws = [rng.integers(0, 200, 200) for _ in range(300)]
    areas = [roc_auc_score(y[rows, 0], scores[rows, 0]) for rows in draws]
    assert found.auroc_low[0].item() == pytest.approx(np.quantile(areas, 0.05), abs=0.02)


def test_a_judge_that_guesses_is_not_usable() -> None:
    y = attributes(300)
    y[:, 1] = attributes(300, 1, seed=9)[:, 0]
    y[:, 2] = 1
    found = assess(lambda x: torch.cat([read(x)[:, :3], 1 - read(x)[:, 3:]], 1), quarters(attributes(300)), y)
    assert found.usable.tolist() == [True, False, False, False]
    assert found.auroc[2].isnan()


def test_a_judge_that_reads_another_attribute_is_found_out() -> None:
    """The second score is the first quarter's: right by its correlation alone."""
    y = attributes(400)
    y[:, 1] = torch.where(torch.rand(400, generator=torch.Generator().manual_seed(3)) < 0.8, y[:, 0], 1 - y[:, 0])
    found = assess(lambda x: read(x)[:, [0, 0, 2, 3]], quarters(y), y)
    assert found.usable.all()
    assert found.apart[1, 0].item() == pytest.approx(0.5, abs=0.1)
    assert found.apart[1, 2].item() > 0.75
    assert found.apart[0, 1].item() > 0.95


def test_nothing_tells_apart_what_is_always_together() -> None:
    y = attributes(100)
    y[:, 1] = y[:, 0]
    assert assess(read, quarters(y), y).apart[1, 0].isnan()


def test_the_probe_is_scikit_learn_on_the_activations() -> None:
    y = attributes(200)
    x, model = quarters(y, noise=0.3), painter()
    s = model.encode(x)
    z = ((s - s.mean(0)) / s.std(0, correction=0)).numpy()
    scores = ProbeJudge(model, s, y)(x)
    for b in range(4):
        probabilities = LogisticRegression(tol=1e-8).fit(z, y[:, b]).predict_proba(z)[:, 1]
        np.testing.assert_allclose(scores[:, b], probabilities, atol=2e-3)


def test_a_network_learns_what_the_pictures_show() -> None:
    y, unseen = attributes(400), attributes(100, seed=5)
    x = quarters(y)
    y[:50, 3] = torch.nan
    judge = train_judge(x, y, epochs=6, batch_size=32)
    found = assess(judge, quarters(unseen), unseen)
    assert found.auroc.min().item() > 0.95
    again = train_judge(x, y, epochs=6, batch_size=32)
    assert torch.equal(judge(quarters(unseen)), again(quarters(unseen)))


def test_a_network_takes_images_of_any_size() -> None:
    judge = SmallCNN(1, 3).eval()
    assert judge(torch.zeros(2, 1, 20, 140)).shape == (2, 3)


def test_a_judge_needs_images() -> None:
    with pytest.raises(InvalidOptionError, match="cannot be trained on 1 image"):
        train_judge(torch.zeros(1, 1, 8, 8), torch.zeros(1, 2))


def test_every_portrait_is_there_once() -> None:
    images, held = every_portrait(16)
    assert images.shape == (1728, 3, 16, 16)
    assert len(np.unique(held, axis=0)) == 1728
    drawn = draw(np.arange(500), size=16).attributes
    assert {row.tobytes() for row in drawn} <= {row.tobytes() for row in held}


def test_the_exact_judge_reads_planted_faces() -> None:
    judge = NearestPortrait(
        *(as_floats(torch.from_numpy(every_portrait(16)[0])), torch.from_numpy(every_portrait(16)[1]))
    )
    drawn = draw(np.arange(150), size=16)
    found = assess(judge, torch.from_numpy(drawn.images), torch.from_numpy(drawn.attributes))
    assert found.accuracy.min().item() > 0.99
    assert found.gain.min().item() > 0.85


def test_the_exact_judge_is_linear_between_two_portraits() -> None:
    y = torch.tensor([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
    judge = NearestPortrait(paint(torch.cat([y, y], dim=1)), y)
    between = paint(torch.tensor([[0.25, 1.0, 0.25, 1.0], [0.7, 0.0, 0.7, 0.0], [-1.0, 2.0, -1.0, 2.0]]))
    torch.testing.assert_close(judge(between), torch.tensor([[0.25, 1.0], [0.7, 0.0], [0.0, 1.0]]))


def test_a_judge_of_some_attributes_says_nothing_of_others() -> None:
    y = attributes(100)
    judge = NamedJudge(lambda x: read(x)[:, [2, 0]], ("third", "first"), ("first", "second", "third"))
    found = assess(judge, quarters(y), y[:, :3])
    assert found.usable.tolist() == [True, False, True]
    assert found.auroc[2].item() > 0.95
    with pytest.raises(InvalidOptionError, match="the judge knows third, first, but the data have hat"):
        NamedJudge(read, ("third", "first"), ("hat",))


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (lambda x: read(x)[:, :2], r"shape \(10, 2\) for 10 images; it must return one for each of the 4"),
        (lambda x: 3 * read(x), "must be probabilities in"),
        (lambda x: read(x) - 1, "must be probabilities in"),
    ],
)
def test_a_judge_of_another_kind_is_refused(judge: object, words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        judged(judge, quarters(attributes(10)), 4)  # type: ignore[arg-type]

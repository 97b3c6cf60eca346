"""Numbers of a model of which everything is known, and where they come from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor, nn

from patronus_pl.analysis.editing.decoding import decode_from_noise
from patronus_pl.analysis.evaluate.evaluate import evaluate
from patronus_pl.analysis.evaluate.image_quality import Preservation, preservation, real_features
from patronus_pl.analysis.evaluate.latents import latent_quality, prototype_health
from patronus_pl.analysis.evaluate.networks import Networks
from patronus_pl.analysis.evaluate.plan import PRESETS, EvaluationPlan
from patronus_pl.analysis.evaluate.prior_gap import prior_quality
from patronus_pl.analysis.protocol import DIGITS, Picked, attempt, commit, made_with, pixel_hash, plain
from patronus_pl.analysis.subject import Subject
from patronus_pl.denoiser import VectorNet
from patronus_pl.diffusion import NoiseSchedule
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.metrics import RandomFeatures, frechet_distance, linear_probe
from patronus_pl.modules import LatentPrior
from patronus_pl.pixels import as_bytes
from tests.analysis.painter import images, painter

NAMES = ("light_0", "light_1", "light_2", "light_3")
KINDS = ("local", "local", "local", "global")
PLAN = EvaluationPlan(40, 40, inverted=4, latents=60, subsets=2, sampling=Sampling(steps=2))


def squares(n: int, seed: int, split: str) -> Subject:
    """Painted pictures; attribute j says that quarter j is light."""
    pictures = as_bytes(images(n, seed)).numpy()
    light = (pictures[:, 0, ::4, ::4] > 127).reshape(n, 4).astype(np.float32)
    return Subject(pictures, light, [str(k) for k in range(n)], NAMES, KINDS, {"name": "Squares", "split": split})


def networks(cache: str | None = None) -> Networks:
    return Networks(RandomFeatures(1, width=4), "not here", "nor that", cache)


def tiny_prior(size: int = 4) -> LatentPrior:
    torch.manual_seed(0)
    return LatentPrior(VectorNet(size, width=8, blocks=1), NoiseSchedule(100, beta_start=1e-3, beta_end=0.2)).eval()


def measured(prior: LatentPrior | None = None, plan: EvaluationPlan = PLAN) -> dict[str, Any]:
    model, train, test = painter(), squares(60, 0, "train"), squares(50, 1, "test")
    found: dict[str, Any] = plain(evaluate(model, train, test, plan, networks(), prior), DIGITS)
    return found


@pytest.fixture(scope="module")
def evaluation() -> dict[str, Any]:
    with torch.inference_mode():  # as in `trainer.test`; the judge must learn all the same
        return measured(tiny_prior())


def test_a_model_that_paints_what_it_reads_reconstructs_and_preserves(evaluation: dict[str, Any]) -> None:
    """Whatever the noise: the pictures are the test images themselves, up to rounding."""
    for kind in ("random", "inverted"):
        assert evaluation["reconstruction"][kind]["mse"] < (1 / 127.5) ** 2
        assert "at least 11×11" in evaluation["reconstruction"][kind]["ssim"]["absent"]
        assert evaluation["reconstruction"][kind]["lpips"] == {"absent": "nor that"}
    kept = evaluation["preservation"]
    assert kept["same"] == 1
    assert kept["by_chance"] < 0.9
    assert set(kept["per_attribute"]) == set(NAMES)
    assert evaluation["distances"]["from_real_s"]["Frechet distance (RandomFeatures)"] < 1e-4
    assert evaluation["distances"]["from_real_s"]["precision"] == 1
    assert evaluation["distances"]["FID"] == {"absent": "not here"}


def test_the_error_of_the_mean_image_is_the_variance(evaluation: dict[str, Any]) -> None:
    x = squares(40, 1, "test").images.astype(float) / 127.5 - 1
    assert evaluation["reconstruction"]["mse_mean_image"] == pytest.approx(x.var(0).mean(), rel=1e-5)


def test_the_health_of_prototypes_is_that_of_their_activations(evaluation: dict[str, Any]) -> None:
    """Each is the mean of a quarter. Effective rank: exp of SciPy's entropy of NumPy's eigenvalues."""
    found, quarters = evaluation["prototypes"], squares(60, 0, "train").images[:, 0, ::4, ::4].reshape(60, 4)
    correlation = np.corrcoef(quarters.T.astype(float))
    assert (found["prototypes"], found["dead"], found["duplicates"]) == (4, 0, 0)
    assert found["mean_abs_correlation"] == pytest.approx((np.abs(correlation).sum() - 4) / 12, rel=1e-4)
    assert found["effective_rank"] == pytest.approx(np.exp(entropy(np.linalg.eigvalsh(correlation))), rel=1e-4)
    assert found["protocol"] == {"split": "train", "n": 60, "pixels": pixel_hash(squares(60, 0, "train").images)}


def test_near_and_dead_prototypes_are_counted() -> None:
    """Of (1, 0), (3, 4), (0, 2) the nearest are at cosines 0.6, 0.8 and 0.8; the last one never moves."""
    s = torch.rand(9, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 0.0])
    vectors, picked = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]]), Picked.first(squares(9, 0, "train"), None)
    found = prototype_health(s, vectors, picked)
    assert found["nearest_cosine"] == pytest.approx(2.2 / 3)
    assert found["dead"] == 1
    assert "global" not in found
    assert "at least 2" in attempt(lambda: prototype_health(s[:1], vectors, picked))["absent"]


def test_each_attribute_is_read_by_its_own_quarter(evaluation: dict[str, Any]) -> None:
    tad = evaluation["latents"]["tad"]
    assert [tad["per_attribute"][name]["latent"] for name in NAMES] == [0, 1, 2, 3]
    assert [tad["per_attribute"][name]["best"] for name in NAMES] == [1, 1, 1, 1]
    assert tad["captured"] == len(tad["captured_names"])
    assert tad["per_captured"] == pytest.approx(tad["tad"] / max(1, tad["captured"]), rel=1e-5)
    probe = evaluation["latents"]["probe"]
    assert probe["local_minus_global"] == pytest.approx(probe["local"] - probe["global"], abs=1e-5)
    each = probe["per_attribute"]
    assert probe["local"] == pytest.approx(np.mean([each[name] for name in NAMES[:3]]), rel=1e-5)
    assert probe["global"] == each["light_3"]


def test_every_section_says_how_it_was_measured(evaluation: dict[str, Any]) -> None:
    train, test = squares(60, 0, "train"), squares(50, 1, "test")
    learned = {"split": "train", "n": 60, "pixels": pixel_hash(train.images)}
    shown = {"split": "test", "n": 40, "pixels": pixel_hash(test.images[:40])}
    sampling = {"sampler": "dpm++", "steps": 2, "eta": 0, "clip": True, "seed": 0}
    assert evaluation["latents"]["protocol"] == {**learned, "folds": 5, "seed": 0}
    assert evaluation["reconstruction"]["protocol"] == {**shown, "inverted": 4, **sampling}
    assert evaluation["preservation"]["protocol"]["judge"].items() >= learned.items()
    assert evaluation["distances"]["protocol"].items() >= {"reference": shown, "generated": 40, **sampling}.items()
    assert evaluation["use"]["protocol"]["n"] == 50
    assert evaluation["prior"]["protocol"].items() >= {"train": learned, "steps": 100}.items()


def test_the_gap_is_a_difference_and_a_ratio(evaluation: dict[str, Any]) -> None:
    found, name = evaluation["distances"], "Frechet distance (RandomFeatures)"
    prior, real, training = (found[key][name] for key in ("from_prior", "from_real_s", "from_training_s"))
    assert found["prior_minus_real_s"] == pytest.approx(prior - real, rel=1e-4)
    assert found["prior_minus_training_s"] == pytest.approx(prior - training, rel=1e-4)
    assert found["prior_over_training_s"] == pytest.approx(prior / training, rel=1e-4)
    assert evaluation["prior"]["two_sample_auc"].keys() >= {"prior", "mixture", "gaussian", "real"}


def test_a_perfect_prior_is_as_far_as_training_images(evaluation: dict[str, Any]) -> None:
    """The model paints what it reads, so its pictures of training images are these images themselves."""
    network, (test, train) = networks().features, (squares(50, 1, "test"), squares(60, 0, "train"))
    with torch.no_grad():
        features = [network(torch.from_numpy(of.images[:40]).float() / 127.5 - 1) for of in (test, train)]
    expected = frechet_distance(*features)
    found = evaluation["distances"]["from_training_s"]["Frechet distance (RandomFeatures)"]
    assert found == pytest.approx(expected, rel=0.01)  # up to rounding of the pictures


def test_without_a_prior_and_again(evaluation: dict[str, Any]) -> None:
    """The same numbers, down to the last digit, and words where the prior's would be."""
    again = measured()
    assert "--evaluation.prior" in again["prior"]["absent"]
    assert "--evaluation.prior" in again["distances"]["from_prior"]["absent"]
    for section in ("use", "latents", "reconstruction", "preservation"):
        assert json.dumps(again[section]) == json.dumps(evaluation[section])
    assert "from_training_s" not in again["distances"]
    assert again["distances"]["from_real_s"] == evaluation["distances"]["from_real_s"]


def test_a_prior_of_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="draws 3 activations, the model has 4 prototypes"):
        measured(tiny_prior(3))


def test_few_test_images_serve_in_turn() -> None:
    found = measured(plan=EvaluationPlan(120, None, inverted=1, latents=20, subsets=1, sampling=Sampling(steps=1)))
    assert found["distances"]["protocol"]["generated"] == 120
    assert found["distances"]["protocol"]["reference"]["n"] == 50
    assert found["reconstruction"]["protocol"]["n"] == 50


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_preservation_counts_what_a_judge_reads_the_same() -> None:
    def judge(x: Tensor) -> Tensor:
        """Light? The second attribute it does not know."""
        light = (x.mean((1, 2, 3)) > 0).float()
        return torch.stack([light, torch.full_like(light, torch.nan)], dim=1)

    def pictures(*levels: int) -> Tensor:
        return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)

    attributes = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [torch.nan, 0.0]])
    found = preservation(judge, pictures(200, 200, 0, 0), pictures(255, 0, 10, 200), attributes)
    torch.testing.assert_close(found.same, torch.tensor([0.5, torch.nan]), equal_nan=True)
    torch.testing.assert_close(found.by_chance, torch.tensor([1.0, torch.nan]), equal_nan=True)
    torch.testing.assert_close(found.judge_accuracy, torch.tensor([2 / 3, torch.nan]), equal_nan=True)
    assert isinstance(found, Preservation)


def test_image_k_is_the_same_in_any_batch_and_on_any_rank() -> None:
    model, s = painter(), torch.rand(5, 4)
    model.denoiser_for = lambda s, **told: lambda x_t, t: x_t * 0.1 + s.mean()  # type: ignore[method-assign]
    everything = torch.cat(list(decode_from_noise(model, s, range(5), Sampling(2, "dpm++", 7, batch_size=2))))
    model.denoiser_for = lambda s, **told: lambda x_t, t: x_t * 0.1  # type: ignore[method-assign]
    rows = torch.cat(list(decode_from_noise(model, s, range(5), Sampling(2, "ddim", 7))))
    mine = torch.cat(list(decode_from_noise(model, s[1::2], [1, 3], Sampling(2, "ddim", 7, batch_size=1))))
    assert everything.shape == (5, 1, 8, 8)
    assert torch.equal(mine, rows[1::2])
    assert not torch.equal(rows[0], rows[1])


class Counting(RandomFeatures):
    """Counts the images it sees."""

    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().forward(images)


def test_real_features_are_computed_once_a_network_and_set_of_pixels(tmp_path: Path) -> None:
    network, picked = Counting(1, width=2), Picked.first(squares(10, 0, "test"), 8)
    first = real_features(network, picked, str(tmp_path))
    again = real_features(network, picked, str(tmp_path))
    assert network.seen == 8
    assert torch.equal(first, again)
    real_features(network, Picked.first(squares(10, 0, "test"), 7), str(tmp_path))
    assert network.seen == 15
    torch.testing.assert_close(real_features(network, picked, None), first)


def test_classes_get_an_accuracy() -> None:
    labels = np.arange(60) % 3
    s = torch.from_numpy(np.eye(3)[labels] + np.random.default_rng(0).normal(0, 0.8, (60, 3)))
    one_hot = np.eye(3, dtype=np.float32)[labels]
    subject = Subject(np.zeros((60, 1, 2, 2), np.uint8), one_hot, [""] * 60, ("a", "b", "c"), ("unknown",) * 3)
    found = latent_quality(s, Picked.first(subject, None), subject, seed=0)
    assert found["classes"]["accuracy"] == linear_probe(s, labels).score
    assert 0.5 < found["classes"]["accuracy"] < 1
    assert np.isnan(found["probe"]["local_minus_global"])


def test_data_without_attributes_say_so() -> None:
    nothing = Subject(np.zeros((9, 1, 2, 2), np.uint8), np.zeros((9, 0), np.float32), [""] * 9)
    found = latent_quality(torch.rand(9, 3), Picked.first(nothing, None), nothing, seed=0)
    assert "no attributes" in found["absent"]


def test_what_the_data_do_not_allow_is_said() -> None:
    def refuse() -> None:
        raise InvalidOptionError("too few")

    assert attempt(refuse) == {"absent": "too few"}
    with pytest.raises(InvalidOptionError, match="folds is 5"):
        prior_quality(tiny_prior(), torch.rand(20, 4), torch.rand(3, 4), seed=0)


def test_pixels_are_told_apart_by_order_shape_and_value() -> None:
    x = np.arange(48, dtype=np.uint8).reshape(4, 3, 2, 2)
    changed = x.copy()
    changed[3, 2, 1, 1] += 1
    others = [changed, x[::-1], x[:3], x.reshape(4, 3, 4, 1)]
    assert len({pixel_hash(x), *(pixel_hash(np.ascontiguousarray(other)) for other in others)}) == 5
    assert pixel_hash(x) == pixel_hash(x.copy())


def test_plain_values_are_json() -> None:
    value = {"a": torch.tensor([0.123456789, float("nan")]), 1: np.float32(0.5), "b": (np.arange(2), float("inf"))}
    text = json.dumps(plain(value, DIGITS), allow_nan=False)
    assert json.loads(text) == {"a": [0.123457, None], "1": 0.5, "b": [[0, 1], None]}


def test_the_paper_takes_its_own_protocol() -> None:
    paper = PRESETS["paper"]
    assert (paper.images, paper.reference, paper.sampling.sampler, paper.sampling.steps) == (10_000, None, "ddim", 1000)
    assert paper.latents == 10_000


def test_versions_and_commit() -> None:
    found = made_with()
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0] or "+" in torch.__version__
    assert found["commit"] == commit()
    assert commit() is None or len(str(commit())) == 40


def test_feature_networks_without_weights_run_on_the_cpu() -> None:
    class Mean(nn.Module):
        num_features = 1

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))[:, None]

    picked = Picked.first(squares(6, 0, "test"), None)
    expected = picked.images.astype(np.float32).mean((1, 2, 3)) / 127.5 - 1
    np.testing.assert_allclose(real_features(Mean(), picked, None)[:, 0], expected, atol=1e-6)

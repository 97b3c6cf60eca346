import numpy as np
import torch

from patronus_pl.modules.loss_by_noise import LossByNoise


def test_means_of_the_quarters_are_numpys_and_begin_anew() -> None:
    by_noise, rng = LossByNoise(100), np.random.default_rng(0)
    for _ in range(2):
        losses, t = rng.random((3, 20)), np.stack([rng.permutation(100)[:20] for _ in range(3)])
        for row, steps in zip(losses, t, strict=True):
            by_noise.add(torch.from_numpy(row), torch.from_numpy(steps))
        expected = [losses[(t >= low) & (t < low + 25)].mean() for low in (0, 25, 50, 75)]
        assert by_noise.sums[1].sum() == 60
        np.testing.assert_allclose(by_noise.restart(by_noise.sums), expected, rtol=1e-5)
        assert not by_noise.sums.any()


def test_quarters_of_all_ranks_are_weighted_by_their_images() -> None:
    ranks = [LossByNoise(4), LossByNoise(4)]
    ranks[0].add(torch.tensor([1.0, 2.0]), torch.tensor([0, 3]))
    ranks[1].add(torch.tensor([4.0, 4.0, 6.0]), torch.tensor([0, 0, 3]))
    found = ranks[0].restart(ranks[0].sums + ranks[1].sums)
    torch.testing.assert_close(found, torch.tensor([3.0, torch.nan, torch.nan, 4.0]), equal_nan=True)

import numpy as np
import pytest
import torch

from patronus_pl.analysis.explain.patches import top_patches
from patronus_pl.errors import InvalidOptionError
from patronus_pl.pixels import as_bytes


def batches(images, size):
    for start in range(0, len(images), size):
        part = images[start : start + size]
        yield {"image": part, "id": [f"image {i}" for i in range(start, start + len(part))]}


class TestTopPatches:
    @pytest.fixture
    def images(self):
        return torch.rand(23, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def test_are_the_best_of_all_images(self, tiny_model, images):
        found = top_patches(tiny_model, batches(images, 4), k=5)
        with torch.no_grad():
            features = tiny_model.encoder(images)
            similarity = tiny_model.prototypes.similarity_map(features).flatten(2)
        best, patch = similarity.max(-1)
        for j in range(3):
            order = best[:, j].argsort(descending=True)[:5]
            assert found.index[j].tolist() == order.tolist()
            assert found.id[j] == [f"image {i}" for i in order.tolist()]
            torch.testing.assert_close(found.similarity[j], best[order, j])
            torch.testing.assert_close(found.activation[j], tiny_model.encode(images)[order, j].detach())
            for rank, i in enumerate(order.tolist()):
                row, col = divmod(int(patch[i, j]), features.shape[-1])
                assert (int(found.row[j, rank]), int(found.col[j, rank])) == (row, col)
                assert tuple(found.box[j, rank].tolist()) == tiny_model.patch_box(row, col)
                torch.testing.assert_close(found.features[j, rank], features[i, :, row, col])
        assert found.images == 23

    def test_do_not_depend_on_the_batches(self, tiny_model, images):
        one, other = (top_patches(tiny_model, batches(images, size), k=4) for size in (23, 3))
        assert torch.equal(one.index, other.index)
        assert one.id == other.id
        torch.testing.assert_close(one.features, other.features)

    def test_of_few_images_are_all_of_them(self, tiny_model, images):
        found = top_patches(tiny_model, batches(images[:3], 2), k=9)
        assert found.index.sort(dim=1).values.tolist() == [[0, 1, 2]] * 3

    def test_bytes_are_the_same_images(self, tiny_model, images):
        stored = as_bytes(images)
        one = top_patches(tiny_model, batches(stored, 8), k=3)
        other = top_patches(tiny_model, batches(stored.float() / 127.5 - 1, 8), k=3)
        assert torch.equal(one.similarity, other.similarity)

    def test_random_patches_are_one_of_each_of_some_images(self, tiny_model, images):
        found = top_patches(tiny_model, batches(images, 5), random_patches=7, seed=1)
        with torch.no_grad():
            features = tiny_model.encoder(images).flatten(2)
        distance = (features[None] - found.random_features[:, None, :, None]).square().sum(2).amin(-1)
        sources = distance.argmin(1)
        assert distance.amin(1).max() < 1e-10
        assert len(set(sources.tolist())) == 7
        again = top_patches(tiny_model, batches(images, 5), random_patches=7, seed=1)
        assert torch.equal(again.random_features, found.random_features)
        assert not torch.equal(
            top_patches(tiny_model, batches(images, 5), random_patches=7).random_features, found.random_features
        )

    def test_random_patches_come_from_anywhere(self, tiny_model):
        """Image i is constant i / 100, so that its features tell where in the stream a patch comes from."""
        images = torch.linspace(-1, 1, 200)[:, None, None, None].expand(-1, 1, 16, 16)
        inner = tiny_model.encoder(images)[:, :, 3, 3].detach()
        found = top_patches(tiny_model, batches(images, 32), random_patches=60).random_features
        source = (inner[None] - found[:, None]).square().sum(-1).argmin(1).float()
        assert 70 < source.mean() < 130
        assert source.std() > 40

    def test_spread_is_the_share_of_patches_that_follow(self, tiny_model):
        images = torch.rand(80, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        images[:40] += torch.linspace(-1, 1, 40)[:, None, None, None]
        found = top_patches(tiny_model, batches(images, 9))
        with torch.no_grad():
            similarity, s = tiny_model.similarity_map(images).flatten(2).numpy(), tiny_model.encode(images).numpy()
        expected = [
            np.mean([abs(np.corrcoef(similarity[:, j, u], s[:, j])[0, 1]) >= 0.3 for u in range(similarity.shape[2])])
            for j in range(3)
        ]
        assert found.spread.tolist() == pytest.approx(expected)
        assert 0 < found.spread.min() <= found.spread.max() < 1
        assert top_patches(tiny_model, batches(images[:49], 9)).spread.isnan().all()

    def test_wrong_input_is_named(self, tiny_model, images):
        with pytest.raises(InvalidOptionError, match="k is 0"):
            top_patches(tiny_model, batches(images, 4), k=0)
        with pytest.raises(InvalidOptionError, match="no images"):
            top_patches(tiny_model, [])

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from patronus_pl.analysis import locate, pixel_map, point_at_parts, top_patches
from patronus_pl.analysis.where import all_centres, as_bytes, as_floats, boxes, centres
from patronus_pl.errors import InvalidOptionError
from patronus_pl.prototypes import PatchEncoder, ReceptiveField
from tests.analysis.painter import SQUARES, paint, painter

ENCODERS = {
    "the paper's": {"channels": (1, 4, 4, 4, 4)},
    "one layer": {"channels": (1, 4), "kernel_sizes": (4,), "strides": (4,), "paddings": (0,)},
    "5x5": {"channels": (1, 4, 4), "kernel_sizes": (5, 5), "strides": (2, 1), "paddings": (2, 1)},
    "two strides": {"channels": (1, 4, 4, 4), "kernel_sizes": (3, 4, 2), "strides": (2, 3, 1), "paddings": (1, 2, 1)},
    "gaps": {"channels": (1, 4, 4), "kernel_sizes": (1, 1), "strides": (2, 2), "paddings": (0, 0)},
}
HEIGHT, WIDTH = 22, 27


@pytest.fixture(params=ENCODERS, ids=str)
def encoder(request):
    torch.manual_seed(0)
    return PatchEncoder(**ENCODERS[request.param])


def support(encoder, row, col):
    """Box around the pixels on which an output depends, by autograd."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(parameter.abs() + 0.1)  # all ReLUs open: no path is hidden
    x = torch.ones(1, 1, HEIGHT, WIDTH, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(x)[0, :, row, col].sum(), x)
    rows, cols = gradient[0, 0].any(1).nonzero(), gradient[0, 0].any(0).nonzero()
    return int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1


class TestBoxes:
    def test_are_the_support_of_the_gradient(self, encoder):
        rows, cols = encoder.map_size(HEIGHT, WIDTH)
        for row, col in [(0, 0), (rows - 1, cols - 1), (rows // 2, 0), (rows // 2, cols // 2)]:
            box = boxes(encoder.receptive_field, torch.tensor(row), torch.tensor(col), HEIGHT, WIDTH)
            assert tuple(box.tolist()) == support(encoder, row, col)

    def test_many_at_once(self, encoder):
        rows, cols = encoder.map_size(HEIGHT, WIDTH)
        grid = torch.cartesian_prod(torch.arange(rows), torch.arange(cols))
        found = boxes(encoder.receptive_field, grid[:, 0], grid[:, 1], HEIGHT, WIDTH)
        assert found.tolist() == [list(encoder.receptive_field.box(r, c, HEIGHT, WIDTH)) for r, c in grid.tolist()]

    def test_centres_are_the_middle_pixels(self):
        rows = torch.arange(3)
        odd = centres(ReceptiveField(size=5, jump=4, offset=0), rows, rows, 13, 13)
        assert odd[:, 0].tolist() == [2, 6, 10]
        even = centres(ReceptiveField(size=4, jump=4, offset=0), rows, rows, 12, 12)
        assert even[:, 1].tolist() == [1.5, 5.5, 9.5]
        hanging = centres(ReceptiveField(size=5, jump=9, offset=-6), rows, rows, 8, 10)
        assert hanging.tolist() == [[0, 0], [5, 5], [7, 9]]


class TestPixelMap:
    def brute_force(self, similarity, field):
        total, count = np.zeros((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH))
        for row, col in np.ndindex(*similarity.shape):
            top, left, bottom, right = field.box(row, col, HEIGHT, WIDTH)
            total[top:bottom, left:right] += similarity[row, col]
            count[top:bottom, left:right] += 1
        with np.errstate(invalid="ignore"):
            return total / count

    def test_is_the_mean_over_the_patches_that_see_a_pixel(self, encoder):
        similarity = torch.rand(2, 3, *encoder.map_size(HEIGHT, WIDTH))
        found = pixel_map(similarity, encoder.receptive_field, HEIGHT, WIDTH)
        for i, j in np.ndindex(2, 3):
            expected = self.brute_force(similarity[i, j].numpy(), encoder.receptive_field)
            np.testing.assert_allclose(found[i, j], expected, rtol=1e-5)

    def test_is_a_transposed_convolution_with_ones(self):
        field = ReceptiveField.of((3, 3), (2, 1), (1, 0))
        similarity = torch.rand(1, 1, 6, 7)
        ones = torch.ones(1, 1, field.size, field.size)
        total, count = (
            F.conv_transpose2d(values, ones, stride=field.jump, padding=-field.offset)
            for values in (similarity, torch.ones_like(similarity))
        )
        found = pixel_map(similarity, field, *total.shape[-2:])
        torch.testing.assert_close(found, total / count)

    def test_keeps_constants_and_says_where_no_patch_looks(self):
        field = ReceptiveField.of((1,), (2,), (0,))
        found = pixel_map(torch.full((1, 1, 2, 2), 3.0), field, 4, 4)
        seen = torch.tensor([True, False, True, False])
        assert torch.equal(~found[0, 0].isnan(), seen[:, None] & seen)
        assert (found[0, 0][seen][:, seen] == 3).all()


class TestLocate:
    def test_finds_each_square_of_the_painter(self):
        found = locate(painter(), paint(torch.rand(5, 4)))
        assert found.box.tolist() == [[list(box) for box in SQUARES]] * 5
        assert found.row.tolist() == [[0, 0, 1, 1]] * 5
        assert found.col.tolist() == [[0, 1, 0, 1]] * 5
        assert found.centre[0].tolist() == [[1.5, 1.5], [1.5, 5.5], [5.5, 1.5], [5.5, 5.5]]

    @pytest.mark.parametrize("temperature", [None, 10.0])
    def test_is_the_arg_max_of_the_map(self, make_model, temperature):
        model = make_model(prototypes={"temperature": temperature})
        images = torch.rand(5, 1, 16, 16) * 2 - 1
        found = locate(model, images, batch_size=2)
        with torch.no_grad():
            similarity = model.similarity_map(images).numpy()
        for i, j in np.ndindex(5, 3):
            row, col = np.unravel_index(similarity[i, j].argmax(), similarity[i, j].shape)
            assert (int(found.row[i, j]), int(found.col[i, j])) == (row, col)
            assert tuple(found.box[i, j].tolist()) == model.patch_box(int(row), int(col))
        assert found.similarity.numpy() == pytest.approx(similarity.max((2, 3)), rel=1e-5)
        if temperature is None:
            torch.testing.assert_close(found.similarity, model.encode(images), rtol=1e-4, atol=1e-5)

    def test_boxes_fit_images_of_another_size(self, tiny_model):
        found = locate(tiny_model, torch.rand(2, 1, 16, 24))
        assert found.box[..., 2].max() <= 16
        assert found.box[..., 3].max() <= 24
        assert len(all_centres(tiny_model, 16, 24)) == 6 * 10


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


def test_bytes_and_floats_are_two_ways_to_write_an_image():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(as_bytes(as_floats(levels)), levels)
    assert (as_floats(levels).min(), as_floats(levels).max()) == (-1, 1)
    assert as_bytes(torch.full((1, 1, 1, 1), 1.5)).item() == 255
    floats = torch.rand(1, 1, 2, 2)
    assert as_floats(floats) is floats


class TestPointAtParts:
    """The painter's prototypes look at the middle of their quarters; the part is the upper left quarter."""

    def game(self, prototype, sign, attributes=((1.0,), (1.0,), (0.0,), (torch.nan,))):
        masks = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
        masks[:, :, :4, :4] = True
        masks[1] = False
        attributes = torch.tensor(attributes)
        (found,) = point_at_parts(painter(), paint(torch.rand(4, 4)), attributes, masks, [prototype], sign)
        return found

    def test_hits_count_where_the_attribute_and_its_part_are_there(self):
        assert (self.game(0, [1]).hit_rate, self.game(0, [1]).images) == (1, 1)
        assert self.game(3, None).hit_rate == 0

    def test_base_rate_is_that_of_the_possible_centres(self):
        assert self.game(0, [1]).base_rate == 0.25

    def test_a_prototype_of_absence_speaks_where_the_attribute_is_not(self):
        assert (self.game(0, [-1]).hit_rate, self.game(0, [-1]).images) == (1, 1)
        assert self.game(0, [-1], ((1.0,), (1.0,), (1.0,), (1.0,))).images == 0

    def test_no_prototype_plays_no_game(self):
        found = self.game(-1, [1])
        assert found.images == 0
        assert np.isnan(found.hit_rate)

    def test_numbers_must_match(self):
        masks = torch.zeros(4, 2, 8, 8, dtype=torch.bool)
        with pytest.raises(InvalidOptionError, match="give one each an attribute"):
            point_at_parts(painter(), paint(torch.rand(4, 4)), torch.zeros(4, 2), masks, [0])

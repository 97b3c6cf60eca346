import numpy as np
import pytest
import torch
from torch.nn import functional as F

from patronus_pl.analysis.explain.where import all_centres, boxes, centres, locate, pixel_map, point_at_parts
from patronus_pl.errors import InvalidOptionError
from patronus_pl.pixels import as_bytes, as_floats
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
        (found,), _ = point_at_parts(painter(), paint(torch.rand(4, 4)), attributes, masks, [prototype], sign)
        return found

    def test_hits_count_where_the_attribute_and_its_part_are_there(self):
        assert (self.game(0, [1]).hit_rate, self.game(0, [1]).images) == (1, 1)
        assert self.game(3, None).hit_rate == 0

    def test_base_rate_is_that_of_the_possible_centres(self):
        assert self.game(0, [1]).base_rate == 0.25

    def test_a_prototype_of_absence_speaks_where_the_attribute_is_not(self):
        assert (self.game(0, [-1]).hit_rate, self.game(0, [-1]).images) == (1, 1)
        assert self.game(0, [-1], ((1.0,), (1.0,), (1.0,), (1.0,))).images == 0

    def test_a_box_sees_a_part_that_its_centre_misses(self):
        """The painter's boxes are its quarters; the part reaches from the upper left one by a pixel into two others."""
        masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
        masks[..., :5, :5] = True
        masks[..., 4, 4] = False
        one = torch.ones(1, 1)
        for prototype, looks, sees in ((0, 1, 1), (1, 0, 1), (2, 0, 1), (3, 0, 0)):
            (by_centre,), (by_box,) = point_at_parts(painter(), paint(torch.rand(1, 4)), one, masks, [prototype])
            assert (by_centre.hit_rate, by_box.hit_rate) == (looks, sees)
            assert (by_centre.base_rate, by_box.base_rate) == (0.25, 0.75)

    def test_no_prototype_plays_no_game(self):
        found = self.game(-1, [1])
        assert found.images == 0
        assert np.isnan(found.hit_rate)

    def test_numbers_must_match(self):
        masks = torch.zeros(4, 2, 8, 8, dtype=torch.bool)
        with pytest.raises(InvalidOptionError, match="give one each an attribute"):
            point_at_parts(painter(), paint(torch.rand(4, 4)), torch.zeros(4, 2), masks, [0])

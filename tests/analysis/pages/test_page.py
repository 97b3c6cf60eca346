"""Pictures keep to their limits, and charts pass through their points."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from patronus_pl.analysis.pages import page


@pytest.mark.parametrize(("limit", "kind"), [(10**6, "png"), (60_000, "webp"), (9_000, "webp")])
def test_pictures_fit_their_limit_and_keep_their_size_on_the_screen(limit: int, kind: str) -> None:
    noise = torch.rand(1, 4, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pictures = {"noise": page.Picture.of(noise, 96)}
    shown = page.embed(lambda: iter(pictures.items()), limit)["noise"]
    assert shown["uri"].startswith(f"data:image/{kind};base64,")
    assert len(shown["uri"]) < limit * 1.34 + 100
    assert (shown["height"], shown["width"]) == (96, 4 * 97 - 1)


def test_numbers_in_pixels_are_never_left_out_and_what_cannot_fit_is_shown_all_the_same() -> None:
    cells = np.random.default_rng(0).integers(0, 256, (40, 40, 4), dtype=np.uint8)
    pictures = {"noise": page.Picture(cells, 1), "matrix": page.Picture(cells, 1, exact=True)}
    shown = page.embed(lambda: iter(pictures.items()), limit=10)
    sizes = {name: Image.open(io.BytesIO(base64.b64decode(p["uri"].split(",")[1]))).size for name, p in shown.items()}
    assert sizes == {"noise": (3, 3), "matrix": (40, 40)}


def test_large_images_are_shrunk_and_their_boxes_with_them() -> None:
    images = torch.zeros(1, 2, 1, 200, 100)
    picture = page.Picture.of(images, 96, [[None, (50, 25, 150, 75)]])
    assert picture.pixels.shape[:2] == (96, 48 + 1 + 48)
    ((left, top, width, height),) = picture.boxes
    assert (left * 0.97, top * 0.96) == pytest.approx((49 + 12, 24))
    assert (width * 0.97, height * 0.96) == pytest.approx((24, 48))


def test_paths_pass_through_their_points() -> None:
    assert page.line_path([0.0, 0.5, 1.0], [0.0, 1.0, 2.0], 10.0, 4.0) == "M0.00 4.00 L5.00 0.00 L10.00 0.00"
    assert page.steps_path([0.5, 1.0], 10.0, 4.0) == "M0 4.0 V2.00 H5.00 V0.00 H10.00 V4.0 Z"


@pytest.mark.parametrize(
    ("value", "digits", "text"), [(None, 2, "–"), (-0.004, 2, "0.00"), (-0.016, 2, "−0.02"), (1234.5, 1, "1,234.5")]
)
def test_numbers_for_reading(value: float | None, digits: int, text: str) -> None:
    assert page.number(value, digits) == text

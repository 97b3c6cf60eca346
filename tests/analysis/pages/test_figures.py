"""Pixels are checked one by one; figures through what can be read off their PNG."""

import io

import numpy as np
import torch
from PIL import Image

from patronus_pl.analysis.pages import figures

ACCENT = (0xC2, 0x57, 0x1A)
SECOND = (0x2C, 0x7A, 0x8C)


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def count(pixels: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((pixels[..., : len(colour)] == colour).all(-1).sum())


def colours(rows: int, columns: int, size: int = 2) -> torch.Tensor:
    """Images of which every pixel has a colour of its own."""
    n = rows * columns * size * size
    flat = torch.stack([torch.arange(n) * 7 % 251 + 2, torch.arange(n), 255 - torch.arange(n)])
    return (flat.reshape(3, rows, columns, size, size).permute(1, 2, 0, 3, 4) / 127.5 - 1).float()


def test_rgb_rounds_clips_and_colours_grey():
    grey = torch.tensor([-2.0, -1.0, -0.5, 0.004, 1.0, 3.0]).reshape(1, 1, 1, 6)
    expected = [0, 0, 64, 128, 255, 255]
    assert (figures.rgb(grey)[0, 0] == np.array(expected)[:, None]).all()


def test_tiles_put_every_pixel_where_it_belongs():
    images = colours(2, 3)
    canvas = figures.tiles(images, gap=1, scale=2)
    assert canvas.shape == (10, 16, 4)
    for r in range(2):
        for c in range(3):
            tile = canvas[6 * r : 6 * r + 4, 6 * c : 6 * c + 4]
            assert (tile[..., 3] == 255).all()
            assert (tile[::2, ::2, :3] == figures.rgb(images)[r, c]).all()
            assert (tile[1::2, 1::2, :3] == figures.rgb(images)[r, c]).all()
    assert (canvas[4:6, :, 3] == 0).all()
    assert (canvas[:, 4:6, 3] == 0).all()


def test_a_box_frames_its_pixels_and_nothing_else():
    images = torch.full((1, 2, 3, 8, 8), -1.0)
    canvas = figures.tiles(images, gap=0, scale=4, boxes=[[(1, 2, 5, 8), None]])
    drawn = (canvas[..., :3] == ACCENT).all(-1)
    frame = np.zeros((32, 64), bool)
    frame[4:20, 8:32] = True
    frame[5:19, 9:31] = False
    assert (drawn == frame).all()


def test_crops_are_transparent_beyond_the_edge():
    image = colours(1, 1, size=4)[0]
    canvas = figures.crops(image.expand(2, -1, -1, -1), tops=[-1, 1], lefts=[2, 1], size=3)
    assert canvas.shape == (3, 7, 4)
    pixels = figures.rgb(image)[0]
    assert (canvas[1:, :2, :3] == pixels[:2, 2:]).all()
    assert (canvas[0, :3, 3] == 0).all()
    assert (canvas[:, 2, 3] == 0).all()
    assert (canvas[:, 4:, :3] == pixels[1:4, 1:4]).all()


def test_magnified_windows_fill_tiles_of_the_images_size():
    image = colours(1, 1, size=8)[0]
    canvas = figures.magnified(image.expand(2, -1, -1, -1), tops=[2, 5], lefts=[1, 6], size=3)
    assert canvas.shape == (8, 17, 4)
    pixels = figures.rgb(image)[0]
    for y in range(3):
        for x in range(3):
            assert (canvas[1 + 2 * y : 3 + 2 * y, 1 + 2 * x : 3 + 2 * x, :3] == pixels[2 + y, 1 + x]).all()
    assert (canvas[:, 8, 3] == 0).all()
    assert (canvas[1:7, 9 + 1 : 9 + 5, 3] == 255).all()
    assert (canvas[1:7, 9 + 5 :, 3] == 0).all()  # beyond the image


def test_a_window_as_large_as_the_image_is_the_image():
    images = colours(1, 2, size=4)[0]
    canvas = figures.magnified(images, tops=[0, 0], lefts=[0, 0], size=4)
    assert (canvas[:, :4, :3] == figures.rgb(images)[0]).all()
    assert (canvas[:, 5:, :3] == figures.rgb(images)[1]).all()


def test_heat_glows_where_values_are_high_only():
    image = torch.full((1, 1, 2, 2), 0.5)
    values = torch.tensor([[[0.0, 0.5], [1.0, torch.nan]]])
    picture = figures.heat(image, values, low=0.0, high=1.0)[0]
    plain = torch.full((3,), 0.5 * 0.6)
    torch.testing.assert_close(picture[:, 0, 0], plain)
    torch.testing.assert_close(picture[:, 1, 1], plain)
    distance = [float((picture[:, r, c] - plain).norm()) for r, c in ((0, 0), (0, 1), (1, 0))]
    assert distance[0] < distance[1] < distance[2]
    assert picture.abs().max() <= 1


def test_shades_deepen_with_the_value_and_turn_with_its_sign():
    canvas = figures.shades(torch.tensor([[0.0, 0.5, 1.0, 3.0, -1.0, torch.nan]]), high=1.0)
    assert canvas[0, :, 3].tolist() == [0, 128, 255, 255, 255, 0]
    assert tuple(canvas[0, 2, :3]) == ACCENT
    assert tuple(canvas[0, 4, :3]) == SECOND


def test_encode_is_lossless_as_png_and_smaller_as_webp():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)
    png, webp = figures.png_or_webp(pixels), figures.png_or_webp(pixels, quality=50)
    assert (np.asarray(Image.open(io.BytesIO(png))) == pixels).all()
    assert Image.open(io.BytesIO(webp)).size == (30, 40)
    assert len(webp) < len(png)


def test_image_grid_shows_every_pixel_magnified_by_whole_pixels():
    images = colours(2, 3)
    png = figures.image_grid(images, ["one", "two"], ["a", "b", "c"], title="$ not math", tile=8)
    shown = read(png)
    for colour in figures.rgb(images).reshape(-1, 3):
        assert count(shown, tuple(colour)) == 16  # 8 pixels high for 2: each becomes 4 × 4


def test_image_grid_grows_with_its_labels():
    images = colours(1, 2)
    plain, labelled = read(figures.image_grid(images)), read(figures.image_grid(images, ["a long label"]))
    assert labelled.shape[0] == plain.shape[0]
    assert labelled.shape[1] > plain.shape[1]

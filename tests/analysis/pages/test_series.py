from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patronus_pl.analysis.editing.changes import Change
from patronus_pl.analysis.editing.decoding import decode
from patronus_pl.analysis.editing.inverting import invert
from patronus_pl.analysis.pages.series import Series, Variant, edited_series, safe
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.pixels import as_bytes
from tests.analysis.painter import images, painter


def test_safe_names_are_different_for_different_names() -> None:
    names = ["a/b", "a%2Fb", "a_b", "a\\b", "a:b", "a b", "é", "../x", "p0.range=-1.5,p1.remove"]
    made = [safe(name) for name in names]
    assert len(set(made)) == len(names)
    assert made[0] == "a%2Fb"
    assert not any(set(name) & set('/\\:*?"<>|') for name in made)
    assert made[-1] == names[-1]
    assert made[6] == "é"


def test_a_series_is_what_inversion_and_decoding_make() -> None:
    model, x = painter(), images(3)
    change = Change(2, "absolute", 0.25)
    series = edited_series(model, x, ["a", "b", "c"], [Variant("lighter", (change,))], None, Sampling(5))
    s_new = model.encode(x)
    s_new[:, 2] = 0.25
    inverted = invert(model, x, Sampling(5))
    unedited, edited = (decode(model, inverted.x_T, s, Sampling(5)) for s in (inverted.s, s_new))
    assert [one.image for one in series] == ["a", "b", "c"]
    for k, one in enumerate(series):
        assert list(one.names) == ["unedited", "lighter"]
        assert one.edited.tolist() == [[False] * 4, [False, False, True, False]]
        pictures = torch.stack([x[k], unedited[k], edited[k]])
        assert torch.equal(one.pictures, as_bytes(pictures))
        torch.testing.assert_close(one.requested, torch.stack([inverted.s[k], s_new[k]]))


@pytest.mark.parametrize("channels", [1, 3])
def test_files_hold_every_pixel(tmp_path: Path, channels: int) -> None:
    pixels = torch.randint(256, (3, channels, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    numbers = torch.zeros(2, 1)
    one = Series(
        "edits", "x/y", ["unedited", "p0"], numbers > 0, numbers[:, 0], numbers[0], numbers, numbers, 30.0, pixels
    )
    one.save(tmp_path)
    for name, picture in zip(["x%2Fy_unedited.png", "x%2Fy_p0.png"], pixels[1:], strict=True):
        shown = np.asarray(Image.open(tmp_path / name)).reshape(4, 6, channels)
        assert (torch.tensor(shown) == picture.movedim(0, -1)).all()

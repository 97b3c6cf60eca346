"""Rare attributes, other hands and photographs of planted faces."""

import json
from hashlib import sha256
from math import sqrt

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, binary_dilation
from scipy.stats import binomtest

from patronus_pl.data import PlantedFaces
from patronus_pl.data.camera import NUMBERS, lit, pose, scene
from patronus_pl.data.hands import HANDS
from patronus_pl.data.planted_attributes import ATTRIBUTES, GROUPS, MARGINALS, rare_marginals
from patronus_pl.data.planted_faces import ATTRIBUTE_PART, draw
from patronus_pl.data.planted_templates import every_portrait
from patronus_pl.data.portraits import CANVAS, CHIN_X, CHIN_Y, PARTS, Look, paint
from patronus_pl.errors import InvalidOptionError

CROWD = 20_000
RARE = (0.03, 0.15)
FOUR_SIGMA = 6.3e-5
"""The chance that a normal number lies more than four standard deviations away."""
COLUMN = {name: i for i, name in enumerate(ATTRIBUTES)}
Pair = tuple[NDArray[np.float32], NDArray[np.uint8]]

# ---- rare attributes -------------------------------------------------------------------------------------------------

LARGE = pytest.param(64, marks=pytest.mark.slow)
SIZES = [(32, False), (32, True), *(pytest.param(64, photo, marks=pytest.mark.slow) for photo in (False, True))]


def test_marginals_lie_between_the_two_frequencies() -> None:
    marginals = rare_marginals(RARE)
    assert list(marginals) == list(ATTRIBUTES)
    assert min(marginals.values()) == pytest.approx(0.03)
    assert max(marginals.values()) == pytest.approx(0.15)
    steps = np.diff(np.log(sorted(marginals.values())))
    np.testing.assert_allclose(steps, np.log(5) / 13)
    assert rare_marginals(None) is MARGINALS


@pytest.mark.parametrize("rarity", [RARE, (0.01, 0.01), (1 / 3, 1 / 3)])
def test_attributes_are_as_rare_as_asked(rarity: tuple[float, float]) -> None:
    drawn = draw(np.arange(CROWD), size=1, rarity=rarity)
    for name, column in zip(ATTRIBUTES, drawn.attributes.T, strict=True):
        assert binomtest(int(column.sum()), CROWD, rare_marginals(rarity)[name]).pvalue > FOUR_SIGMA, name
    for group in GROUPS.values():
        assert drawn.attributes[:, [COLUMN[name] for name in group]].sum(1).max() == 1


def test_rare_attributes_can_be_tied() -> None:
    plain = draw(np.arange(CROWD), size=1, rarity=RARE).attributes
    tied = draw(np.arange(CROWD), size=1, rarity=RARE, correlation={"Blond_Hair,Smiling": 0.5}).attributes
    pair = [COLUMN["Blond_Hair"], COLUMN["Smiling"]]
    assert np.corrcoef(tied[:, pair].T)[0, 1] == pytest.approx(0.5, abs=8 / sqrt(CROWD))
    assert binomtest(int(tied[:, pair[1]].sum()), CROWD, rare_marginals(RARE)["Smiling"]).pvalue > FOUR_SIGMA
    others = [i for i in range(len(ATTRIBUTES)) if i != pair[1]]
    assert np.array_equal(plain[:, others], tied[:, others])
    with pytest.raises(InvalidOptionError, match=r"'Blond_Hair,Smiling' is -0.5; .* must lie in \[-0.0\d+, 0.\d+\]"):
        PlantedFaces(rarity=RARE, correlation={"Blond_Hair,Smiling": -0.5})


@pytest.mark.parametrize("rarity", [(0.0, 0.1), (0.2, 0.1), (0.1, 0.4), (-0.1, 0.1), (float("nan"), 0.1)])
def test_impossible_rarities(rarity: tuple[float, float]) -> None:
    with pytest.raises(InvalidOptionError, match=r"data.rarity is \[.*as in \[0.03, 0.15\], above 0 and at most 1/3"):
        PlantedFaces(rarity=rarity)


def test_templates_of_rare_faces_include_those_with_no_style_or_colour_of_hair() -> None:
    images, held = every_portrait(16, RARE)
    assert images.shape == (4 * 4 * 3 * 64, 3, 16, 16)
    drawn = draw(np.arange(500), size=16, rarity=RARE).attributes
    assert {row.tobytes() for row in drawn} <= {row.tobytes() for row in held}


# ---- hands -----------------------------------------------------------------------------------------------------------


def pairs(hand: str, attribute: str, size: int, photographic: bool = False) -> tuple[Pair, Pair]:
    """Draw the same n portraits, noise apart, without and with an attribute, whatever their other attributes are."""
    rng, n = np.random.default_rng(1), 24 * 32 // size
    has = {name: rng.random(n) < p for name, p in MARGINALS.items() if name not in GROUPS["hair style"]}
    style = rng.integers(0, 4, n)  # the fourth style is none of the three that have names
    has |= {name: style == i for i, name in enumerate(GROUPS["hair style"])}
    if hand == "plain" and attribute == "Wearing_Hat":
        has["Curly_Hair"][:] = False  # the plain hand's curls on top make way for the hat
    numbers = rng.uniform(-1, 1, (n, NUMBERS)).astype(np.float32)
    look = Look(np.zeros(n, np.float32), np.ones((n, 4), np.float32), rng.random(n).astype(np.float32))
    if photographic:
        look = look._replace(pose=pose(numbers), scene=scene(numbers, size))
    for group in GROUPS.values():
        if attribute in group:
            has |= {name: np.zeros(n, bool) for name in group}
    without, with_it = (paint(HANDS[hand], {**has, attribute: np.full(n, held)}, look, size) for held in (False, True))
    if photographic:
        without, with_it = ((lit(pixels, numbers), parts) for pixels, parts in (without, with_it))
    return without, with_it


@pytest.mark.parametrize(("size", "photographic"), SIZES)
@pytest.mark.parametrize("hand", HANDS)
def test_every_attribute_is_visible(hand: str, size: int, photographic: bool) -> None:
    for attribute in ATTRIBUTES:
        (without, _), (with_it, _) = pairs(hand, attribute, size, photographic)
        changed = (np.abs(with_it - without).max(1) > 12).sum((1, 2))
        assert changed.min() >= 5 * (size / 32) ** 2, (attribute, int(changed.argmin()), int(changed.min()))


@pytest.mark.parametrize(("size", "photographic"), SIZES)
@pytest.mark.parametrize("hand", HANDS)
def test_masks_cover_what_an_attribute_changes(hand: str, size: int, photographic: bool) -> None:
    """What a flip changes lies in the part, give or take a pixel of its edge, and most of the part changes."""
    for attribute, part in ATTRIBUTE_PART.items():
        if (hand, attribute) == ("plain", "Short_Hair"):  # ears, which are of the face, come with it
            continue
        (without, parts), (with_it, parts_with) = pairs(hand, attribute, size, photographic)
        change = np.abs(with_it - without).max(1)
        mask = (parts == PARTS.index(part)) | (parts_with == PARTS.index(part))
        pixels = (1 + max(1, size // 32)) if photographic else 1  # a photograph's blur carries colours a pixel further
        outside = change * ~binary_dilation(mask, np.ones((1, 3, 3)), iterations=pixels)
        if part == "hair":  # strands beside the brim of a hat may be thinner than a pixel, and in no mask
            assert (outside**2).sum() < 0.03 * (change**2).sum(), attribute
        else:
            assert outside.max() < (20 if photographic else 2), attribute
        assert ((change > 2) & mask).sum() > 0.6 * mask.sum(), attribute  # ink around hair keeps its colour


@pytest.mark.parametrize("photographic", [False, True])
@pytest.mark.parametrize("size", [32, LARGE])
@pytest.mark.parametrize("style", [*HANDS, "mixed"])
def test_parts_are_there_exactly_when_their_attributes_are(style: str, size: int, photographic: bool) -> None:
    drawn = draw(np.arange(200), size=size, style=style, photographic=photographic)
    assert (drawn.masks.sum(1) == 1).all()
    present = drawn.masks.any((2, 3))
    for attribute, part in (("Wearing_Hat", "hat"), ("Eyeglasses", "glasses")):
        assert np.array_equal(present[:, PARTS.index(part)], drawn.attributes[:, COLUMN[attribute]] == 1)
    for part in ("background", "shirt", "neck", "hair", "face", "eyes", "mouth"):
        assert present[:, PARTS.index(part)].all(), part


def test_styles_share_attributes_and_differ_in_pixels() -> None:
    drawn = {style: draw(np.arange(50), style=style) for style in (*HANDS, "mixed")}
    plain = drawn["plain"]
    for style, portraits in drawn.items():
        assert np.array_equal(portraits.attributes, plain.attributes)
        if style != "plain":
            assert (portraits.images != plain.images).any((1, 2, 3)).sum() >= 30
    same = np.array(
        [
            [(a == b).all() for b in (drawn[hand].images[i] for hand in HANDS)]
            for i, a in enumerate(drawn["mixed"].images)
        ]
    )
    assert (same.sum(1) == 1).all()
    assert (same.sum(0) >= 3).all()


@pytest.mark.parametrize("style", [style for style in HANDS if style != "plain"])
def test_backgrounds_have_any_hue_and_tell_bright_from_dim(style: str) -> None:
    drawn = draw(np.arange(400), style=style)
    corner = drawn.images[:, :, 0, 0].astype(float)
    bright = drawn.attributes[:, COLUMN["Bright_Background"]] == 1
    assert corner[bright].max(1).min() > corner[~bright].max(1).max() + 40
    for channel in range(3):  # each of red, green and blue is the strongest somewhere
        assert (corner.argmax(1) == channel).mean() > 0.2


@pytest.mark.parametrize("style", ["Plain", "", "oil"])
def test_unknown_styles(style: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"data.style is '{style}'; choose one of plain, ink, .*, mixed"):
        draw([0], style=style)


# ---- photographs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("style", "photographic"), [("ink", False), ("plain", True), ("mixed", True)])
def test_an_image_depends_on_seed_and_index_alone(style: str, photographic: bool) -> None:
    everyone = draw(np.arange(400), 3, rarity=RARE, style=style, photographic=photographic)
    for chosen in ([399, 0, 70, 0], [5]):
        some = draw(chosen, 3, rarity=RARE, style=style, photographic=photographic)
        for all_of_them, these in zip(everyone, some, strict=True):
            assert np.array_equal(all_of_them[chosen], these)


def test_photographs_are_not_flat_and_keep_their_attributes() -> None:
    drawn, photographs = draw(np.arange(100)), draw(np.arange(100), photographic=True)
    assert np.array_equal(drawn.attributes, photographs.attributes)
    for part in ("background", "shirt"):
        spread = []
        for images, parts in ((drawn.images, drawn.parts), (photographs.images, photographs.parts)):
            spread.append(
                np.median(
                    [image[1][shown].std() for image, shown in zip(images, parts == PARTS.index(part), strict=True)]
                )
            )
        assert spread[1] > 1.3 * spread[0], part


@pytest.mark.parametrize("hand", HANDS)
def test_masks_follow_the_pose(hand: str) -> None:
    """Posed parts are the parts of the unposed portrait, moved, scaled and turned about the chin by SciPy."""
    rng, n, size = np.random.default_rng(2), 12, 128
    has = {name: rng.random(n) < p for name, p in MARGINALS.items()}
    numbers = rng.uniform(-1, 1, (n, 4)).astype(np.float32)
    look = Look(np.zeros(n, np.float32), np.ones((n, 4), np.float32), np.zeros(n, np.float32))
    _, still = paint(HANDS[hand], has, look, size)
    how = pose(numbers)
    _, posed = paint(HANDS[hand], has, look._replace(pose=how), size)
    for right, down, zoom, turn, before, after in zip(*how, still, posed, strict=True):
        angle = 2 * np.arctan(turn)
        cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
        matrix = np.array([[cosine, -sine], [sine, cosine]])  # output (y, x) → input
        chin = np.array([CHIN_Y, CHIN_X]) * size / CANVAS - 0.5
        moved = chin + np.array([down, right]) * size / CANVAS
        expected = affine_transform(before, matrix, chin - matrix @ moved, order=0, mode="nearest")
        assert (expected == after).mean() > 0.95


def test_photographs_are_the_same_on_every_machine() -> None:
    images = draw(np.arange(64), style="mixed", photographic=True, rarity=RARE).images
    assert sha256(images.tobytes()).hexdigest() == "93349bbcf5c38d7d3aaafab941711d452ca4d3eb18f3ec136219fd20194f55f7"


# ---- data module -----------------------------------------------------------------------------------------------------


def test_description_names_how_faces_are_drawn() -> None:
    plain, other = PlantedFaces(), PlantedFaces(rarity=RARE, style="ink", photographic=True)
    assert {key: plain.describe()[key] for key in ("rarity", "style", "photographic")} == {
        "rarity": None,
        "style": "plain",
        "photographic": False,
    }
    description = other.describe()
    assert json.loads(json.dumps(description)) == description
    assert {key: description[key] for key in ("rarity", "style", "photographic")} == {
        "rarity": [0.03, 0.15],
        "style": "ink",
        "photographic": True,
    }


def test_masks_are_those_of_the_images() -> None:
    data = PlantedFaces(style="mixed", photographic=True, rarity=RARE, limit=40)
    hats = data.table("test").attributes[:, COLUMN["Wearing_Hat"]] == 1
    masks = data.attribute_masks("test", np.arange(40))
    assert np.array_equal(masks[:, COLUMN["Wearing_Hat"]].any((1, 2)), hats)

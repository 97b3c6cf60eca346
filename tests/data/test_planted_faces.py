import json
from hashlib import sha256
from math import inf, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_fill_holes
from scipy.stats import kstest

from patronus_pl.data import BiasedSubset, PlantedFaces
from patronus_pl.data import portraits as drawing
from patronus_pl.data.hands import HANDS, PLAIN
from patronus_pl.data.planted_attributes import (
    ATTRIBUTES,
    FREE,
    GLOBAL,
    GOLDEN,
    GROUPS,
    MARGINALS,
    splitmix64,
    ties,
    uniform,
)
from patronus_pl.data.planted_faces import ATTRIBUTE_PART, draw
from patronus_pl.data.portraits import PARTS, SMALL, Look, portraits
from patronus_pl.errors import InvalidOptionError

CROWD = 20_000
COLUMN = {name: i for i, name in enumerate(ATTRIBUTES)}
PART = {name: i for i, name in enumerate(PARTS)}


def attributes_of_crowd(correlation: dict[str, float] | None = None, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    drawn = draw(np.arange(CROWD), seed, size=1, correlation=correlation)
    return dict(zip(ATTRIBUTES, drawn.attributes.T, strict=True))


def phi(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(np.corrcoef(first, second)[0, 1])


# ---- chance ----------------------------------------------------------------------------------------------------------


def test_splitmix64_gives_the_published_sequence_of_seed_0() -> None:
    states = np.arange(1, 6, dtype=np.uint64) * GOLDEN
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    assert splitmix64(states).tolist() == published


@pytest.mark.parametrize("seed", [0, 1, -1, 2**70])
def test_chance_is_uniform_and_its_columns_and_seeds_independent(seed: int) -> None:
    indices = np.arange(CROWD, dtype=np.uint64)
    chance = np.concatenate([uniform(seed, indices, 6), uniform(seed + 1, indices, 6)], 1)
    assert all(kstest(column, "uniform").pvalue > 1e-3 for column in chance.T)
    correlation = np.corrcoef(chance.T) - np.eye(12)
    assert np.abs(correlation).max() < 4.5 / sqrt(CROWD)
    assert abs(np.corrcoef(chance[1:, 0], chance[:-1, 0])[0, 1]) < 4 / sqrt(CROWD)


# ---- determinism -----------------------------------------------------------------------------------------------------


def test_an_image_depends_on_seed_and_index_alone() -> None:
    everyone = draw(np.arange(200), seed=3)
    order = np.random.default_rng(0).permutation(200)
    for chosen in (order, order[:7], order[:1], [199, 0, 199]):
        some = draw(chosen, seed=3)
        for all_of_them, these in zip(everyone, some, strict=True):
            assert np.array_equal(all_of_them[chosen], these)


def test_pixels_are_the_same_on_every_machine() -> None:
    images = draw(np.arange(64)).images
    assert sha256(images.tobytes()).hexdigest() == "b6c0e8a05e93ee517c4eaaf3fdf453e6bc3a0a24f03d4229bb9a4b35052cf2d1"


def test_seeds_draw_other_crowds() -> None:
    assert (draw(np.arange(50), seed=0).images != draw(np.arange(50), seed=1).images).any((1, 2, 3)).all()


def test_nobody_is_an_empty_batch() -> None:
    drawn = draw([])
    assert drawn.images.shape == (0, 3, 32, 32)
    assert drawn.masks.shape == (0, len(PARTS), 32, 32)


# ---- attributes ------------------------------------------------------------------------------------------------------


def test_marginals_within_binomial_error() -> None:
    for name, column in attributes_of_crowd().items():
        p = MARGINALS[name]
        assert abs(column.mean() - p) < 4 * sqrt(p * (1 - p) / CROWD), name


def test_groups_are_exclusive() -> None:
    crowd = attributes_of_crowd()
    for group in GROUPS.values():
        held = sum(crowd[name] for name in group)
        assert set(np.unique(held)) == ({1.0} if sum(group.values()) == 1 else {0.0, 1.0})


def test_attributes_are_independent_unless_tied() -> None:
    crowd = attributes_of_crowd()
    pairs = [(a, b) for a in FREE for b in ATTRIBUTES if a != b]
    assert max(abs(phi(crowd[a], crowd[b])) for a, b in pairs) < 4 / sqrt(CROWD)


@pytest.mark.parametrize(
    ("first", "second", "rho"),
    [
        ("Black_Hair", "Smiling", 0.8),
        ("Black_Hair", "Smiling", -0.3),
        ("Smiling", "Blond_Hair", 0.5),
        ("Pale_Skin", "Eyeglasses", -0.6),
        ("Long_Hair", "Wearing_Hat", 0.55),
        ("Wearing_Hat", "Wearing_Red", 0.7),
        ("Large_Head", "Bright_Background", -0.95),
    ],
)
def test_planted_phi(first: str, second: str, rho: float) -> None:
    plain, tied = attributes_of_crowd(), attributes_of_crowd({f"{first}, {second}": rho})
    assert phi(tied[first], tied[second]) == pytest.approx(rho, abs=4 / sqrt(CROWD))
    for name, column in tied.items():
        p = MARGINALS[name]
        assert abs(column.mean() - p) < 4 * sqrt(p * (1 - p) / CROWD), name
    child = second if second in FREE else first
    assert all(np.array_equal(plain[name], tied[name]) for name in ATTRIBUTES if name != child)


def test_phi_of_one_ties_exactly() -> None:
    crowd = attributes_of_crowd({"Black_Hair,Smiling": 1, "Smiling,Wearing_Red": -1.0})
    assert np.array_equal(crowd["Black_Hair"], crowd["Smiling"])
    assert np.array_equal(crowd["Smiling"], 1 - crowd["Wearing_Red"])


def test_a_chain_of_ties_holds_in_any_order() -> None:
    chain = {"Smiling,Eyeglasses": 0.5, "Black_Hair,Smiling": 0.8}
    crowd = attributes_of_crowd(chain)
    assert [tie.child for tie in ties(chain)] == ["Smiling", "Eyeglasses"]
    assert phi(crowd["Black_Hair"], crowd["Smiling"]) == pytest.approx(0.8, abs=4 / sqrt(CROWD))
    assert phi(crowd["Smiling"], crowd["Eyeglasses"]) == pytest.approx(0.5, abs=4 / sqrt(CROWD))
    assert phi(crowd["Black_Hair"], crowd["Eyeglasses"]) == pytest.approx(0.4, abs=4 / sqrt(CROWD))


@pytest.mark.parametrize("edge", [0, 1])
def test_the_whole_reachable_interval_is_reachable(edge: int) -> None:
    rho = ties({"Blond_Hair,Wearing_Hat": 0.0})[0].reachable[edge]
    crowd = attributes_of_crowd({"Blond_Hair,Wearing_Hat": rho})
    assert phi(crowd["Blond_Hair"], crowd["Wearing_Hat"]) == pytest.approx(rho, abs=4 / sqrt(CROWD))
    assert crowd["Wearing_Hat"][crowd["Blond_Hair"] == 1].mean() == edge


@pytest.mark.parametrize(
    ("correlation", "message"),
    [
        ({"Black_Hair,Smile": 0.5}, "names 'Smile'; the attributes are Black_Hair, .*Large_Head"),
        ({"Black_Hair": 0.5}, "has the key 'Black_Hair'; write two attributes"),
        ({"Smiling,Smiling": 0.5}, "has the key 'Smiling,Smiling'; write two"),
        ({"Black_Hair,Long_Hair": 0.5}, "belong to groups; one must be of Smiling, Eyeglasses"),
        ({"Black_Hair,Smiling": 1.5}, r"'Black_Hair,Smiling' is 1.5; .* must lie in \[-1.000, 1.000\]"),
        ({"Black_Hair,Smiling": float("nan")}, "is nan"),
        ({"Smiling,Blond_Hair": 0.6}, r"'Blond_Hair,Smiling' is 0.6; .* must lie in \[-0.577, 0.577\]"),
        ({"Black_Hair,Smiling": 0.1, "Eyeglasses,Smiling": 0.1}, "ties Smiling twice"),
        ({"Smiling,Eyeglasses": 0.1, "Eyeglasses,Smiling": 0.1}, "in a circle through Eyeglasses, Smiling"),
    ],
)
def test_impossible_correlations(correlation: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        PlantedFaces(correlation=correlation)
    with pytest.raises(InvalidOptionError, match=message):
        draw([0], correlation=correlation)


# ---- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 20, 33, 64])
def test_any_size(size: int) -> None:
    drawn = draw(np.arange(5), size=size)
    assert drawn.images.shape == (5, 3, size, size)
    assert drawn.masks.shape == (5, len(PARTS), size, size)
    assert np.array_equal(drawn.attributes, draw(np.arange(5)).attributes)


def test_edges_are_antialiased() -> None:
    """Drawn at 32 px, or drawn at 256 px and averaged: nearly the same picture. Hard edges would be 4 levels away."""
    small = draw(np.arange(40)).images.astype(float)
    large = draw(np.arange(40), size=256).images.reshape(40, 3, 32, 8, 32, 8).mean((3, 5))
    assert np.abs(small - large).mean() < 1.6


@pytest.mark.parametrize("size", [32, 45])
def test_crops_cut_nothing_off(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cropped = draw(np.arange(100), size=size)
    monkeypatch.setattr(drawing, "region", lambda shape, posed, size: (slice(0, size), slice(0, size)))
    whole = draw(np.arange(100), size=size)
    assert np.array_equal(cropped.images, whole.images)
    assert np.array_equal(cropped.parts, whole.parts)


def test_bounds_of_shapes_are_finite_and_tight() -> None:
    u, v = np.meshgrid(np.arange(-16, 16, 0.05), np.arange(-26, 12, 0.05))
    for layer in (layer for hand in HANDS.values() for layer in hand.layers):
        shape = layer.shape
        assert -inf < shape.left < shape.right < inf
        inside = shape.distance(u, v) < 0
        assert inside.any()
        assert shape.left <= u[inside].min() + 0.05
        assert u[inside].max() - 0.05 <= shape.right
        assert shape.top <= v[inside].min() + 0.05
        assert v[inside].max() - 0.05 <= shape.bottom


def test_masks_share_out_every_pixel() -> None:
    masks = draw(np.arange(100)).masks
    assert masks.dtype == bool
    assert (masks.sum(1) == 1).all()


def test_masks_are_empty_where_the_part_is_absent() -> None:
    drawn = draw(np.arange(300))
    present = drawn.masks.any((2, 3))
    for attribute, part in (("Wearing_Hat", "hat"), ("Eyeglasses", "glasses")):
        assert np.array_equal(present[:, PART[part]], drawn.attributes[:, COLUMN[attribute]] == 1)
    for part in ("background", "shirt", "neck", "hair", "face", "eyes", "mouth"):
        assert present[:, PART[part]].all(), part


def test_mouth_and_eyes_lie_within_the_face() -> None:
    masks = draw(np.arange(100), size=64).masks
    for mask in masks:
        head = binary_fill_holes(mask[[PART[part] for part in ("face", "hair", "glasses", "hat", "mouth")]].any(0))
        assert head[mask[PART["eyes"]]].all()
        face = np.flatnonzero(mask[PART["face"]].any(0))
        mouth = np.flatnonzero(mask[PART["mouth"]].any(0))
        assert face[0] < mouth[0] <= mouth[-1] < face[-1]


def test_shirts_are_red_where_they_should_be() -> None:
    drawn = draw(np.arange(200))
    red, _, blue = np.moveaxis(drawn.images.astype(int), 1, 0)
    for image_red, image_blue, mask, wears in zip(
        red, blue, drawn.masks[:, PART["shirt"]], drawn.attributes[:, COLUMN["Wearing_Red"]], strict=True
    ):
        redder = (image_red - image_blue)[mask]
        assert np.median(redder) > 100 if wears else np.median(redder) < -60
        assert ((redder > 0) == wears).mean() > 0.95


def test_brightness_shows_background_and_skin() -> None:
    drawn = draw(np.arange(300))
    light = drawn.images.mean(1)
    shown = {
        part: (light * (drawn.parts == PART[part])).sum((1, 2)) / (drawn.parts == PART[part]).sum((1, 2))
        for part in ("background", "face")
    }
    held = {name: drawn.attributes[:, COLUMN[name]] == 1 for name in GLOBAL}
    bright = held["Bright_Background"]
    assert shown["background"][bright].min() > shown["background"][~bright].max() + 80
    medium = ~held["Pale_Skin"] & ~held["Dark_Skin"]
    assert shown["face"][held["Pale_Skin"]].min() > shown["face"][medium].max()
    assert shown["face"][medium].min() > shown["face"][held["Dark_Skin"]].max()


@pytest.mark.parametrize("attribute", ["Smiling", "Eyeglasses", "Wearing_Hat", "Wearing_Red"])
def test_an_attribute_changes_its_part_and_nothing_else(attribute: str) -> None:
    """Two portraits that differ in one attribute differ within its mask, give or take the mixed pixels of an edge."""
    names = [*MARGINALS]
    has = {name: np.repeat(np.random.default_rng(1).random(40) < MARGINALS[name], 2) for name in names}
    has["Curly_Hair"][:] = False  # curls on top make way for the hat
    has[attribute] = np.arange(80) % 2 == 1
    look = Look(np.zeros(80, np.float32), np.ones((80, 4), np.float32), np.zeros(80, np.float32))
    images, parts = portraits(PLAIN, has, look, 32)
    without, with_it = images[::2].astype(int), images[1::2].astype(int)
    changed = np.abs(with_it - without).max(1) > 2
    part = PART[ATTRIBUTE_PART[attribute]]
    mask = (parts[::2] == part) | (parts[1::2] == part)
    reach = binary_dilation(mask, np.ones((1, 3, 3)))
    assert changed.any((1, 2)).all()
    assert not (changed & ~reach).any()
    assert (changed & mask).sum() > 0.7 * mask.sum()


def test_a_large_head_is_larger() -> None:
    drawn = draw(np.arange(300), size=64)
    large = drawn.attributes[:, COLUMN["Large_Head"]] == 1
    heads = np.isin(drawn.parts, [PART[part] for part in ("face", "mouth", "eyes", "glasses")])
    widths = heads.any(1).sum(1)
    short = drawn.attributes[:, COLUMN["Long_Hair"]] == 1
    ratio = widths[~large & short].mean() / widths[large & short].mean()
    assert ratio == pytest.approx(SMALL / 1.05, abs=0.03)


def test_every_hair_shows_under_every_hat() -> None:
    drawn = draw(np.arange(500))
    hair = (drawn.parts == PART["hair"]).sum((1, 2))
    assert hair.min() >= 12


# ---- data module -----------------------------------------------------------------------------------------------------


def test_batches() -> None:
    data = PlantedFaces(batch_size=8, train_size=20, val_size=10, test_size=12)
    data.setup()
    assert data.image_shape == (3, 32, 32)
    assert len(data.attribute_names) == len(data.attribute_kind) == 14
    assert [len(data.table(split)) for split in ("train", "val", "test")] == [20, 10, 12]
    assert len(data.train_dataloader()) == 2
    batch = next(iter(data.val_dataloader()))
    assert batch["id"][:2] == ["val-000000", "val-000001"]
    assert batch["attributes"].shape == (8, 14)
    image = data.on_after_batch_transfer(batch, 0)["image"]
    assert image.shape == (8, 3, 32, 32)
    assert -1 <= image.min() < -0.5 < 0.5 < image.max() <= 1


def test_kinds_and_parts() -> None:
    for name, kind in zip(PlantedFaces.attribute_names, PlantedFaces.attribute_kind, strict=True):
        assert kind == ("global" if name in GLOBAL else "local")
        assert (name in PlantedFaces.attribute_part) == (kind == "local")
    assert set(PlantedFaces.attribute_part.values()) <= set(PlantedFaces.part_names)


def test_splits_are_disjoint_and_sizes_do_not_matter() -> None:
    data, larger = PlantedFaces(limit=100), PlantedFaces(train_size=150, val_size=150, test_size=150)
    images = []
    for split in ("train", "val", "test"):
        images.append(data.table(split).images)
        assert np.array_equal(images[-1], larger.table(split).images[:100])
        assert data.table(split).ids == larger.table(split).ids[:100]
    assert len({image.tobytes() for image in np.concatenate(images)}) == 300


def test_masks_follow_the_ids_through_a_biased_subset() -> None:
    bias = BiasedSubset({"Black_Hair,Smiling": -0.9})
    data = PlantedFaces(bias=bias, limit=60, train_size=300, seed=5)
    table = data.table("train")
    assert table.ids != [f"train-{i:06d}" for i in range(len(table))]
    rows = np.array([40, 3, 17, 3])
    masks = data.masks("train", rows)
    original = draw([int(table.ids[row][6:]) for row in rows], seed=5)
    assert np.array_equal(original.images, table.images[rows])
    assert np.array_equal(original.masks, masks)
    hats = table.attributes[rows, COLUMN["Wearing_Hat"]] == 1
    assert np.array_equal(masks[:, data.part_names.index("hat")].any((1, 2)), hats)


def test_description_is_plain_and_tells_data_apart() -> None:
    data = PlantedFaces(correlation={" Smiling , Black_Hair": 0.5})
    description = data.describe()
    assert json.loads(json.dumps(description)) == description
    assert description["correlation"] == {"Black_Hair,Smiling": 0.5}
    assert description["sizes"] == {"train": 20000, "val": 2000, "test": 5000}
    assert description != PlantedFaces().describe()
    assert PlantedFaces(seed=1).describe() != PlantedFaces().describe()


@pytest.mark.parametrize("argument", ["image_size", "batch_size", "limit", "train_size", "val_size", "test_size"])
def test_sizes_below_one(argument: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"data.{argument} is 0; it must be at least 1"):
        PlantedFaces(**{argument: 0})

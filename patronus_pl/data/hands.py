"""The hands that draw planted faces: tables of shapes and colours for `portraits`.

Each shows the same attributes in the same parts. `plain` fills its shapes and draws large features. `ink` outlines
everything thickly and draws dots, lines and arcs; `pastel` has long pale faces with thin-rimmed square spectacles and
mouths that are chords; `block` builds from rectangles; `fine` draws thin lines, large eyes and round thin spectacles.
"""

import numpy as np

from patronus_pl.data.portraits import Hand, Layer
from patronus_pl.data.shapes import Array, Shape, above, below, box, circle, circles, cone, ellipse, squares

THIN = 0.3
"""The share of a pixel that a line must cover to be part of a mask."""


def colours(**rgb: tuple[int, int, int]) -> dict[str, Array]:
    """Return named colours as (1, 3) arrays."""
    return {name: np.array([levels], np.float32) for name, levels in rgb.items()}


def hair(shape: Shape, where: str) -> Layer:
    """Return hair whose thinnest strands belong to the mask too."""
    return Layer("hair", "hair", shape, where, share=THIN)


def lined(width: float, *layers: Layer) -> tuple[Layer, ...]:
    """Return the layers, each over a copy in ink that is `width` units larger on all sides."""
    return tuple(
        one for layer in layers for one in (layer._replace(colour="ink", shape=layer.shape.inset(-width)), layer)
    )


# ---- plain -----------------------------------------------------------------------------------------------------------

PLAIN_COLOURS = colours(
    black=(38, 34, 46),
    brown=(152, 84, 44),
    blond=(240, 196, 88),
    grey=(176, 176, 184),
    pale=(255, 226, 204),
    medium=(226, 168, 124),
    dark=(116, 72, 54),
    bright=(250, 240, 218),
    dim=(66, 110, 116),
    red=(222, 54, 58),
    blue=(58, 122, 186),
    crown=(132, 66, 186),
    brim=(98, 44, 146),
    band=(252, 196, 72),
    lips=(132, 28, 44),
    teeth=(255, 252, 246),
    closed=(120, 44, 52),
    eye=(40, 32, 40),
    glint=(255, 252, 246),
    frame=(26, 24, 32),
    lens=(214, 240, 252),
    blush=(240, 110, 100),
    ink=(24, 20, 28),
)

SIDE_CURLS = ((9.0, -4.6), (9.3, -9.4))
TOP_CURLS = ((0.0, -18.3), (4.9, -17.1), (8.2, -13.8))
FOREHEAD_CURLS = ((1.9, -15.6), (5.4, -14.6))

SHORT_FRINGE = (ellipse(0, -9.8, 9.5, 9.6) & above(-6.9)) - box(0.5, -6.0, 6.5, 7.2, 3.2).sheared(0.18)
PARTED_FRINGE = (ellipse(0, -9.2, 9.2, 10.2) & above(-6)) - ellipse(2.6, -5.5, 4.9, 8.8).mirrored()
CROPPED = (ellipse(0, -9.0, 8.0, 8.6) & above(-9.4)) - ellipse(0, -8.6, 6.6, 6.6)
SMILE = circle(0, -6.1, 5.2) - circle(0, -21.2, 16.2)
SPECTACLES = circle(4, -9.3, 3.05).mirrored().outline(0.75) | box(0, -9.9, 1.3, 0.6, 0.3)

PLAIN = Hand(
    (
        Layer("shirt", "shirt", box(0, 11.2, 12.8, 10, 6.5), on="body"),
        Layer("hair", "hair", box(0, -7.3, 9.6, 11.7, 7.5), "Long_Hair"),
        Layer("hair", "hair", circles(SIDE_CURLS, 3.5).mirrored(), "Curly_Hair"),
        Layer("hair", "hair", circles(TOP_CURLS, 3.5).mirrored(), "hatless curls"),
        Layer("shirt", "collar", box(0, 0.6, 3.9, 3.7, 3.7), on="body"),
        Layer("neck", "shade", box(0, -0.4, 3, 3.8, 2.9), on="body"),
        Layer("face", "skin", circle(7.6, -6.2, 1.8).mirrored(), "Short_Hair"),
        Layer("face", "skin", box(0, -8.3, 7.4, 8.5, 7)),
        Layer("face", "blush", circle(5.2, -5.2, 1.5).mirrored(), opacity=0.22),
        Layer("face", "brow", box(3.7, -12.1, 1.4, 0.32, 0.3).mirrored()),
        Layer("face", "nose", box(0, -6.7, 0.9, 0.5, 0.5)),
        Layer("hair", "hair", SHORT_FRINGE, "Short_Hair"),
        Layer("hair", "hair", PARTED_FRINGE, "Long_Hair"),
        hair(CROPPED, "cropped"),
        Layer("hair", "hair", circles(FOREHEAD_CURLS, 2.4).mirrored(), "hatless curls"),
        Layer("hair", "shine", circles(SIDE_CURLS, 1.45).mirrored().outline(0.28), "Curly_Hair"),
        Layer("hair", "shine", circles(TOP_CURLS + FOREHEAD_CURLS, 1.45).mirrored().outline(0.28), "hatless curls"),
        Layer("mouth", "lips", SMILE, "Smiling"),
        Layer("mouth", "teeth", SMILE.inset(0.6) & above(-3.2), "Smiling"),
        Layer("mouth", "closed", box(0, -3.6, 1.8, 0.55, 0.55), "serious"),
        Layer("glasses", "lens", circle(4, -9.3, 3).mirrored(), "Eyeglasses", opacity=0.7),
        Layer("eyes", "eye", ellipse(3.7, -9.3, 1.05, 1.35).mirrored()),
        Layer("eyes", "glint", circles(((-3.3, -9.8), (4.1, -9.8)), 0.36)),
        Layer("glasses", "frame", SPECTACLES, "Eyeglasses"),
        Layer("hat", "crown", box(0, -17.8, 8.4, 4.4, 4.2), "Wearing_Hat"),
        Layer("hat", "band", box(0, -16, 8.5, 1.4, 0.2), "Wearing_Hat"),
        Layer("hat", "brim", box(0, -14.2, 11.2, 1.3, 1.3), "Wearing_Hat"),
    ),
    PLAIN_COLOURS,
)

# ---- ink: wide heads, thick outlines, dots for eyes, a line or an arc for a mouth ------------------------------------

INK_CURLS = ((9.6, -3.6), (10.2, -8.6), (8.2, -13.6), (4.6, -16.6), (0.0, -17.6))

INK = Hand(
    (
        *lined(
            0.8,
            Layer("shirt", "shirt", ellipse(0, 13.4, 12.4, 11.6), on="body"),
            Layer("face", "skin", circle(8.7, -7.2, 1.6).mirrored()),
            hair(box(0, -6.4, 10.4, 11.6, 6.5), "Long_Hair"),
            hair(circles(INK_CURLS, 2.9).mirrored(), "Curly_Hair"),
            Layer("neck", "shade", box(0, 0.4, 2.6, 3, 1.2), on="body"),
            Layer("face", "skin", ellipse(0, -7.9, 8.7, 8.2)),
            hair((ellipse(0, -8.4, 9.4, 8.9) & above(-11.6)), "Long_Hair"),
            hair(circles(((0.0, -15.2), (3.9, -14.4), (7.2, -11.4)), 2.2).mirrored(), "Curly_Hair"),
            hair(ellipse(0, -8.4, 9.2, 9.0) - ellipse(1.2, -5.2, 8.4, 7.8), "Short_Hair"),
            hair((ellipse(0, -8.2, 8.9, 8.6) & above(-9.6)) - ellipse(0, -7.4, 7.6, 7.2), "cropped"),
        ),
        Layer("mouth", "ink", box(0, -3.4, 2.1, 0.5, 0.3), "serious", share=THIN),
        Layer("mouth", "ink", circle(0, -5.4, 4.0).outline(0.6) & below(-4.0), "Smiling", share=THIN),
        Layer("eyes", "ink", circle(4.2, -8.2, 1.05).mirrored()),
        Layer("glasses", "frame", circle(4.2, -8.2, 2.7).mirrored().outline(0.5), "Eyeglasses", share=THIN),
        Layer("glasses", "frame", box(0, -8.6, 1.6, 0.5, 0.2), "Eyeglasses", share=THIN),
        *lined(
            0.8,
            Layer("hat", "crown", ellipse(0, -14.2, 7.8, 7.4) & above(-14.0), "Wearing_Hat"),
            Layer("hat", "brim", box(0, -13.8, 10.6, 1, 1), "Wearing_Hat"),
        ),
    ),
    PLAIN_COLOURS
    | colours(
        black=(58, 54, 72),
        brown=(168, 98, 40),
        blond=(255, 222, 92),
        pale=(255, 236, 222),
        medium=(232, 176, 120),
        dark=(138, 88, 60),
        red=(230, 40, 40),
        blue=(70, 170, 120),
        crown=(66, 128, 214),
        brim=(40, 92, 176),
        frame=(20, 30, 90),
    ),
    hues=((0.25, 0.98), (0.5, 0.5)),
)

# ---- pastel: long narrow heads, no outlines, a chord for a smile, square thin spectacles, pointed hats ---------------

PASTEL_CURLS = ((0.0, -18.2), (4.4, -17.2), (7.4, -14.0), (8.4, -9.8), (8.2, -5.6))

PASTEL = Hand(
    (
        Layer("shirt", "shirt", box(0, 10.8, 10.6, 9, 4.5), on="body"),
        hair(box(0, -6.4, 8.4, 12.2, 6), "Long_Hair"),
        hair(circles(PASTEL_CURLS, 3.4).mirrored(), "Curly_Hair"),
        Layer("neck", "shade", box(0, 0.2, 2.1, 3.4, 1.4), on="body"),
        Layer("face", "skin", ellipse(0, -8.9, 6.5, 9.1)),
        Layer("face", "nose", box(0, -7.2, 0.45, 1.3, 0.4)),
        hair((ellipse(0, -9.6, 7.2, 9.6) & above(-7)) - ellipse(0, -7.4, 4.7, 8.2), "Long_Hair"),
        hair(circles(((0.0, -16.4), (3.4, -15.6)), 2.3).mirrored(), "Curly_Hair"),
        hair((ellipse(0, -10.2, 7.0, 8.8) & above(-13.4)) | ellipse(3, -18, 4.2, 2.4), "Short_Hair"),
        hair(box(6.2, -11.6, 0.9, 3, 0.8).mirrored(), "Short_Hair"),
        hair((ellipse(0, -9.2, 7.0, 9.2) & above(-9.6)) - ellipse(0, -8.6, 5.7, 7.9), "cropped"),
        Layer("mouth", "closed", box(0, -3.8, 1.6, 0.42, 0.3), "serious", share=THIN),
        Layer("mouth", "lips", circle(0, -4.9, 3.1) & below(-4.6), "Smiling"),
        Layer("eyes", "teeth", ellipse(2.8, -10, 1.4, 1.1).mirrored()),
        Layer("eyes", "eye", circle(2.8, -10, 0.8).mirrored()),
        Layer("glasses", "frame", box(3, -10, 2.2, 1.9, 0.7).mirrored().outline(0.48), "Eyeglasses", share=THIN),
        Layer("glasses", "frame", box(0, -10.4, 1, 0.48, 0.2), "Eyeglasses", share=THIN),
        Layer("hat", "crown", cone(-22.4, -14, 7.6), "Wearing_Hat"),
        Layer("hat", "band", circle(0, -21.4, 1.5), "Wearing_Hat"),
        Layer("hat", "brim", box(0, -14, 8.4, 1.1, 1), "Wearing_Hat"),
    ),
    PLAIN_COLOURS
    | colours(
        black=(72, 66, 84),
        brown=(170, 116, 84),
        blond=(246, 220, 140),
        grey=(204, 204, 214),
        pale=(255, 232, 222),
        medium=(232, 188, 158),
        dark=(150, 108, 90),
        red=(238, 110, 112),
        blue=(150, 190, 226),
        crown=(120, 196, 160),
        brim=(84, 160, 128),
        band=(255, 244, 200),
        lips=(176, 52, 76),
        closed=(160, 72, 84),
        eye=(64, 52, 84),
        frame=(58, 60, 140),
    ),
    hues=((0.2, 1.0), (0.35, 0.62)),
)

# ---- block: rectangles, a bracket for a smile, top hats --------------------------------------------------------------

BLOCK_CURLS = ((0.0, -17.0), (4.6, -16.4), (8.4, -13.4), (9.4, -8.8), (8.6, -4.2))

BLOCK = Hand(
    (
        Layer("shirt", "shirt", box(0, 10, 11.8, 7.4, 0.6), on="body"),
        hair(box(0, -6.2, 9.8, 10.8, 0.8), "Long_Hair"),
        hair(squares(BLOCK_CURLS, 2.0).mirrored(), "Curly_Hair"),
        Layer("neck", "shade", box(0, 0.4, 3.2, 2.8, 0.2), on="body"),
        Layer("face", "skin", box(0, -7.8, 7.6, 7.8, 1.2)),
        Layer("face", "nose", box(0, -6.6, 0.7, 1.3, 0.1)),
        hair(box(0, -14.4, 8, 2, 0.2), "Long_Hair"),
        hair(squares(((0.0, -14.4), (4.2, -13.8)), 1.3).mirrored(), "Curly_Hair"),
        hair(box(0, -15.6, 8.2, 2.2, 0.2) | box(4.2, -13.2, 4, 1.4, 0.1), "Short_Hair"),
        hair(box(7.5, -11.2, 0.9, 2.8, 0.1).mirrored(), "Short_Hair"),
        hair(box(0, -15.3, 7.6, 0.8, 0.2) | box(7.3, -11.4, 0.5, 3.4, 0.1).mirrored(), "cropped"),
        Layer("mouth", "closed", box(0, -3.2, 2.4, 0.55, 0.1), "serious", share=THIN),
        Layer(
            "mouth",
            "lips",
            box(0, -2.6, 3.6, 0.75, 0.1) | box(3.4, -4, 0.75, 1.5, 0.1).mirrored(),
            "Smiling",
            share=THIN,
        ),
        Layer("eyes", "eye", box(3.5, -8.9, 1.05, 1.05, 0.1).mirrored()),
        Layer("glasses", "frame", box(3.6, -8.9, 2.5, 2.2, 0.2).mirrored().outline(0.5), "Eyeglasses", share=THIN),
        Layer("glasses", "frame", box(0, -9.2, 1.2, 0.5, 0.1), "Eyeglasses", share=THIN),
        Layer("hat", "crown", box(0, -18, 6, 4.2, 0.2), "Wearing_Hat"),
        Layer("hat", "band", box(0, -15.6, 6, 0.8, 0.1), "Wearing_Hat"),
        Layer("hat", "brim", box(0, -14, 10, 1, 0.1), "Wearing_Hat"),
    ),
    PLAIN_COLOURS
    | colours(
        black=(20, 20, 20),
        brown=(126, 70, 30),
        blond=(250, 214, 60),
        pale=(250, 214, 184),
        medium=(214, 150, 96),
        dark=(96, 60, 40),
        red=(200, 30, 40),
        blue=(240, 200, 60),
        crown=(40, 44, 60),
        brim=(28, 30, 44),
        band=(230, 90, 40),
        lips=(200, 24, 48),
        closed=(140, 36, 44),
        frame=(20, 60, 190),
    ),
    hues=((0.3, 0.95), (0.75, 0.42)),
)

# ---- fine: thin lines, a pointed chin, large eyes, round thin spectacles, berets -------------------------------------

FINE_HEAD: Shape = ellipse(0, -10.2, 7.8, 7) | ellipse(0, -6, 5.6, 6.2)
FINE_CURLS = ((8.2, -5.2), (9.0, -8.4), (8.6, -11.8), (6.8, -14.8), (3.8, -17.0), (0.0, -17.8))
BRAIDS = ((8.6, -5.6), (9.3, -2.4), (9.5, 1.0), (9.2, 4.2))

FINE = Hand(
    (
        *lined(
            0.4,
            Layer("shirt", "shirt", ellipse(0, 12.6, 10.6, 10.2), on="body"),
            hair(circles(BRAIDS, 2.1).mirrored(), "Long_Hair"),
            hair(circles(FINE_CURLS, 2.3).mirrored(), "Curly_Hair"),
            Layer("neck", "shade", box(0, 0.6, 1.9, 3.4, 1), on="body"),
            Layer("face", "skin", FINE_HEAD),
            hair((ellipse(0, -9.8, 8.4, 8.2) & above(-7)) - ellipse(0, -6.4, 7.2, 7.4), "Long_Hair"),
            hair(circles(((0.0, -15.4), (3.2, -14.6), (6.0, -12.6)), 1.8).mirrored(), "Curly_Hair"),
            hair(ellipse(0, -10.2, 8.4, 8.0) - ellipse(-2.4, -6.2, 8.4, 7.8), "Short_Hair"),
            hair((ellipse(0, -10, 8.0, 7.4) & above(-10)) - ellipse(0, -9, 6.9, 6.9), "cropped"),
            Layer("eyes", "teeth", ellipse(3.5, -8.8, 1.9, 1.9).mirrored()),
        ),
        Layer("eyes", "eye", circle(3.5, -8.6, 1).mirrored()),
        Layer("mouth", "closed", box(0, -2.7, 1.3, 0.45, 0.3), "serious", share=THIN),
        Layer("mouth", "lips", circle(0, -5.6, 3.6).outline(0.5) & below(-4.2), "Smiling", share=THIN),
        Layer("glasses", "frame", circle(3.7, -8.8, 2.9).mirrored().outline(0.5), "Eyeglasses", share=THIN),
        Layer("glasses", "frame", box(0, -9.4, 0.9, 0.45, 0.2), "Eyeglasses", share=THIN),
        *lined(
            0.4,
            Layer("hat", "crown", ellipse(1.4, -16, 9, 3.8).sheared(0.12), "Wearing_Hat"),
            Layer("hat", "band", box(1.6, -20.6, 0.6, 1.4, 0.4), "Wearing_Hat"),
        ),
    ),
    PLAIN_COLOURS
    | colours(
        black=(44, 40, 60),
        brown=(140, 82, 58),
        blond=(236, 208, 120),
        pale=(255, 240, 226),
        medium=(222, 164, 128),
        dark=(128, 82, 66),
        red=(206, 48, 70),
        blue=(110, 100, 170),
        crown=(210, 130, 40),
        band=(120, 70, 30),
        lips=(206, 30, 70),
        closed=(140, 60, 70),
        frame=(180, 40, 120),
        ink=(84, 60, 60),
    ),
    hues=((0.15, 0.96), (0.6, 0.55)),
)

HANDS = {"plain": PLAIN, "ink": INK, "pastel": PASTEL, "block": BLOCK, "fine": FINE}
"""Name of a style → the hand that draws it."""

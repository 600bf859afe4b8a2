"""Which images are copies of others: photographs are imitated by smooth random fields, drawings by few strokes."""

import io

import numpy as np
import pytest

from mha.tasks.files.near_images import KnownImages, looks_of

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")


def field(seed, side=96):
    """A smooth picture, as a photograph out of focus."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def stroke(seed, side=64):
    """A white stroke on black, as a written digit."""
    canvas = np.zeros((side, side), dtype=np.uint8)
    place = int(np.random.default_rng(seed).integers(10, side - 14))
    canvas[8:-8, place : place + 4] = 255
    return Image.fromarray(canvas)


def encoded(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.fixture(scope="module")
def known():
    return KnownImages(looks_of(field(seed)) for seed in range(20))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: encoded(image, 60),
        lambda image: image.resize((40, 40)),
        lambda image: encoded(image.resize((150, 150)), 80),
    ],
    ids=["the same", "encoded again", "smaller", "larger and encoded"],
)
def test_an_image_is_found_again(known, change):
    assert [known.copied_by(looks_of(change(field(seed)))) for seed in (0, 7, 19)] == [0, 7, 19]


def test_others_are_none(known):
    assert [known.copied_by(looks_of(field(seed))) for seed in range(100, 140)] == [None] * 40
    upside_down = field(3).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    assert known.copied_by(looks_of(upside_down)) is None


def test_alike_drawings_are_not_copies():
    places = {np.asarray(stroke(seed))[32].argmax(): seed for seed in range(30)}
    known = KnownImages(looks_of(stroke(seed)) for seed in list(places.values())[:-1])
    assert known.copied_by(looks_of(stroke(list(places.values())[-1]))) is None


def test_images_without_contrast_are_copies_only_where_they_are_equal():
    grey, other = (Image.new("RGB", (8, 8), (level,) * 3) for level in (100, 101))
    assert KnownImages([looks_of(grey)]).copied_by(looks_of(other)) is None
    assert KnownImages([looks_of(other), looks_of(grey)]).copied_by(looks_of(grey)) == 1
    assert KnownImages([]).copied_by(looks_of(field(1))) is None

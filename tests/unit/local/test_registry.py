"""Images: which are listed, and which names resemble them."""

import pytest

from canfar_batch.local import registry

LISTED = [image.id for image in registry.IMAGES]


@pytest.mark.parametrize(
    ("image", "nearest"),
    [
        ("images.canfar.net/skaha/astrml:latest", "images.canfar.net/skaha/astroml:latest"),
        ("images.canfar.net/skaha/astroconnda:2", "images.canfar.net/skaha/astroconda:latest"),
        ("images.canfar.net/skaha/astroml:2024", None),
        ("images.canfar.net/mine/pipeline:1", None),
    ],
)
def test_the_nearest_name_is_found_for_typos(image, nearest):
    assert registry.nearest(image, LISTED) == nearest


@pytest.mark.parametrize("strict", [True, False, "typos"])
def test_listed_images_are_always_accepted(strict):
    assert all(registry.is_accepted(image, LISTED, strict) for image in LISTED)

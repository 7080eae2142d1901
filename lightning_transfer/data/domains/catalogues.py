"""Sentences and their translations out of the gettext catalogues of programs."""

import logging
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_transfer.assets import fetch
from lightning_transfer.data.columns import TargetColumns
from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.splits.split_spec import normalize
from lightning_transfer.data.text_to_text import TextToText

log = logging.getLogger(__name__)

ASSETS = (
    "catalogues_django",
    "catalogues_gramps",
    "catalogues_indico",
    "catalogues_oscar",
    "catalogues_spyder",
    "catalogues_wagtail",
)
"""The packaged catalogues."""

ORIGINAL = "en"
"""The language that the programs are written in."""

# What stands for something else, or marks up: no word of either language.
_MARKUP = re.compile(r"%(\(\w+\))?[-#0 +]*[\d.]*[a-zA-Z]|\{[^{}]*\}|<[^<>]*>|&\w+;")

_Key = tuple[str | None, str]  # context and text in the original language


class Catalogues(TextToText):
    """What programs say to their users, in two of the languages that they are translated into.

    The columns are languages: ``TargetColumns("en", "fr")`` pairs English with French, and
    ``TargetColumns("fr", "de")`` the two translations of one English text. Each text is there once,
    with the first translation that is found. Of a text with plural forms the singular is taken.
    An English text lies in the same split in all pairs of languages: what one of them is tested on,
    no other learns. The sizes of the splits are fractions for that.
    Left out are fuzzy and missing translations, those that are the same as the text, and texts
    without a letter beside placeholders and markup, both of which are kept as they are.

    Without ``source`` the packaged catalogues are read, with it all of a folder:
    ``**/<language>/LC_MESSAGES/*.mo`` or ``.po``. A language is that folder's name, or begins it:
    ``de`` finds ``de`` and ``de_DE``, not ``de_AT``.
    """

    default_columns = TargetColumns(ORIGINAL, "fr")

    def load_rows(self) -> Table:
        """Return one row for each text.

        Raises:
            FileNotFoundError: If there is no catalogue of a language.
            ValueError: If a group is asked for, or a catalogue is broken.
        """
        languages = (self.columns.text, self.columns.target)
        if self.columns.group is not None:
            raise ValueError(f"catalogues have no groups, got columns.group={self.columns.group!r}")
        folder = self.source_path
        found: dict[str, dict[str, Any]] = {}
        seen = 0
        for root in [folder] if folder else map(fetch, ASSETS):
            for place, original, text, target in _pairs(root, languages):
                seen += 1
                if _is_pair(text, target):
                    row = {"text": text, "target": target, "key": normalize(original)}
                    row["row"] = f"{place}, {text[:40]!r}"
                    found.setdefault(normalize(text), row)
        if not found:
            raise FileNotFoundError(
                f"no text in {' and '.join(languages)} in {folder or 'the packaged catalogues'}; "
                "set columns.text and columns.target to two languages that are there, such as "
                f"{ORIGINAL} and fr"
            )
        rank_zero_only(log.info)(
            "%s: %s of %s pairs; the others repeat a text, are not translated or hold no letter",
            self.where,
            f"{len(found):,}",
            f"{seen:,}",
        )
        rows = list(found.values())
        return {name: [row[name] for row in rows] for name in rows[0]}


def _is_pair(text: str, target: str) -> bool:
    words = [_MARKUP.sub(" ", side) for side in (text, target)]
    return text != target and all(any(map(str.isalpha, side)) for side in words)


def _pairs(root: Path, languages: tuple[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield place, original, text and target of all catalogues below ``root``."""
    for home, name in sorted({(path.parents[2], path.stem) for path in _files(root)}):
        sides = [_texts(home, name, language) for language in languages]
        keys = next((side for side in sides if side is not None), {})
        place = f"{home.relative_to(root).as_posix()}/{name}"
        for key in keys:
            text, target = (key[1] if side is None else side.get(key, "") for side in sides)
            if text.strip() and target.strip():
                yield place, key[1], text.strip(), target.strip()


def _files(root: Path) -> Iterator[Path]:
    for suffix in ("mo", "po"):
        yield from root.glob(f"**/LC_MESSAGES/*.{suffix}")


def _texts(home: Path, name: str, language: str) -> Mapping[_Key, str] | None:
    """Return a catalogue's translations into a language; None: the keys are in it."""
    if language == ORIGINAL:
        return None
    for folder in (language, f"{language}_{language.upper()}"):
        for suffix in ("mo", "po"):
            path = home / folder / "LC_MESSAGES" / f"{name}.{suffix}"
            if path.is_file() and (texts := read_catalogue(path)):
                return texts
    return {}


def read_catalogue(path: Path) -> dict[_Key, str]:
    """Return the translations in a gettext catalogue, by context and text.

    Args:
        path: A ``.mo`` or ``.po`` file.

    Raises:
        ValueError: If it is broken.
    """
    from babel.messages.mofile import read_mo  # other domains do without
    from babel.messages.pofile import PoFileError, read_po

    try:
        with path.open("rb") as file:
            catalogue = read_mo(file) if path.suffix == ".mo" else read_po(file, abort_invalid=True)
    except (OSError, UnicodeError, LookupError, ValueError, PoFileError, struct.error) as error:
        raise ValueError(f"{path} is no sound gettext catalogue: {error}") from error
    texts: dict[_Key, str] = {}
    for message in catalogue:
        text, target = _singular(message.id), _singular(message.string)
        if text and target and not message.fuzzy:
            texts[message.context, text] = target
    return texts


def _singular(text: Any) -> str:
    """Return the first of plural forms."""
    return str((text[0] if text else "") if isinstance(text, list | tuple) else text or "")

"""Texts of user interfaces with their translations, from the gettext catalogues of programs."""

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
"""Assets with the packaged catalogues."""

ORIGINAL = "en"
"""Language of the original texts. It has no catalogues: its texts are the keys of the others."""

# Placeholders (%s, %(name)s, {name}), tags (<b>) and entities (&amp;): no words of a language.
_MARKUP = re.compile(r"%(\(\w+\))?[-#0 +]*[\d.]*[a-zA-Z]|\{[^{}]*\}|<[^<>]*>|&\w+;")

_Key = tuple[str | None, str]  # context and text in the original language


class Catalogues(TextToText):
    """Texts of the user interfaces of programs in two languages.

    The columns are languages: ``TargetColumns("en", "fr")`` pairs English texts with their French
    translations, ``TargetColumns("fr", "de")`` pairs the French and German translations of the same
    English text. Each text occurs once, with its first translation. For texts with plural forms,
    the singular is used.

    An English text is in the same split for all pairs of languages, so no pair is trained on the
    test texts of another one. This requires split sizes given as fractions.

    Some translations are left out: fuzzy and missing ones, those equal to the text, and texts with
    no letters besides placeholders and markup. In all other texts, placeholders and markup are
    kept.

    ``source`` is a folder with ``**/<language>/LC_MESSAGES/*.mo`` or ``.po``; ``None`` selects the
    packaged catalogues. The language ``de`` is read from the folders ``de`` and ``de_DE``, but not
    from ``de_AT``.
    """

    default_columns = TargetColumns(ORIGINAL, "fr")

    def load_rows(self) -> Table:
        """Return one row per text.

        Raises:
            FileNotFoundError: If there are no pairs of texts in the two languages.
            ValueError: If ``columns`` has a group, or a catalogue cannot be read.
        """
        languages = (self.columns.text, self.columns.target)
        if self.columns.group is not None:
            raise ValueError(
                f"columns.group must be null for catalogues, got {self.columns.group!r}"
            )
        folder = self.source_path
        found: dict[str, dict[str, Any]] = {}  # normalised text -> its row
        total = 0
        for root in [folder] if folder else map(fetch, ASSETS):
            for place, original, text, target in _pairs(root, languages):
                total += 1
                if _is_pair(text, target):
                    # The key decides the split, so it must not depend on the languages.
                    row = {"text": text, "target": target, "key": normalize(original)}
                    row["row"] = f"{place}, {text[:40]!r}"
                    found.setdefault(normalize(text), row)
        if not found:
            raise FileNotFoundError(
                f"no texts in {' and '.join(languages)} in {folder or 'the packaged catalogues'}; "
                "set data.columns.text and data.columns.target to two of its languages, such as "
                f"{ORIGINAL} and fr"
            )
        rank_zero_only(log.info)(
            "%s: %s of %s pairs; the others repeat a text, are not translated or have no letters",
            self.where,
            f"{len(found):,}",
            f"{total:,}",
        )
        rows = list(found.values())
        return {name: [row[name] for row in rows] for name in rows[0]}


def _is_pair(text: str, target: str) -> bool:
    """Return True if the texts differ, and both have letters besides placeholders and markup."""
    stripped = [_MARKUP.sub(" ", side) for side in (text, target)]
    return text != target and all(any(map(str.isalpha, side)) for side in stripped)


def _pairs(root: Path, languages: tuple[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield place, original, text and target text from all catalogues below ``root``."""
    # A set, because each language of a catalogue has a file of the same name.
    for folder, name in sorted({(path.parents[2], path.stem) for path in _files(root)}):
        sides = [_texts(folder, name, language) for language in languages]
        # Of two translated sides, the keys of the first suffice: the second needs them too.
        keys = next((side for side in sides if side is not None), {})
        place = f"{folder.relative_to(root).as_posix()}/{name}"
        for key in keys:
            text, target = (key[1] if side is None else side.get(key, "") for side in sides)
            if text.strip() and target.strip():
                yield place, key[1], text.strip(), target.strip()


def _files(root: Path) -> Iterator[Path]:
    for suffix in ("mo", "po"):
        yield from root.glob(f"**/LC_MESSAGES/*.{suffix}")


def _texts(folder: Path, name: str, language: str) -> Mapping[_Key, str] | None:
    """Return the translations of a catalogue, or None for the original language."""
    if language == ORIGINAL:
        return None
    for subfolder in (language, f"{language}_{language.upper()}"):
        for suffix in ("mo", "po"):
            path = folder / subfolder / "LC_MESSAGES" / f"{name}.{suffix}"
            # An empty catalogue is skipped, because another file may have the translations.
            if path.is_file() and (texts := read_catalogue(path)):
                return texts
    return {}


def read_catalogue(path: Path) -> dict[_Key, str]:
    """Return (context, text) -> translation of a gettext catalogue.

    Args:
        path: A ``.mo`` or ``.po`` file.

    Raises:
        ValueError: If the file is not a catalogue, or is damaged.
    """
    from babel.messages.mofile import read_mo  # imported late: other data do not need babel
    from babel.messages.pofile import PoFileError, read_po

    try:
        with path.open("rb") as file:
            catalogue = read_mo(file) if path.suffix == ".mo" else read_po(file, abort_invalid=True)
    except (OSError, UnicodeError, LookupError, ValueError, PoFileError, struct.error) as error:
        raise ValueError(f"{path} is not a valid gettext catalogue: {error}") from error
    texts: dict[_Key, str] = {}
    for message in catalogue:
        text, target = _singular(message.id), _singular(message.string)
        if text and target and not message.fuzzy:
            texts[message.context, text] = target
    return texts


def _singular(text: Any) -> str:
    """Return the singular of a message with plural forms, else the message."""
    return str((text[0] if text else "") if isinstance(text, list | tuple) else text or "")

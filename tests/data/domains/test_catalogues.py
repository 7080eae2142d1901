import logging

import pytest

from lightning_transfer.data import Catalogues, Splits, TargetColumns
from lightning_transfer.data.domains.catalogues import read_catalogue

pytest.importorskip("babel")

HEADER = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\n'
FRENCH = """
msgid "Delete"
msgstr "Supprimer"

msgctxt "verb"
msgid "Close"
msgstr "Fermer"

msgid "Hello %(name)s, <b>welcome</b> &amp; enjoy"
msgstr "Bonjour %(name)s, <b>bienvenue</b> &amp; bon séjour"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d fichier"
msgstr[1] "%d fichiers"

msgid "  Name\\n"
msgstr "  Nom\\n"

#, fuzzy
msgid "Open"
msgstr "Fermer"

msgid "Save"
msgstr ""

msgid "Django"
msgstr "Django"

msgid "%s: %s"
msgstr "%s : %s"
"""
GERMAN = """
msgid "Delete"
msgstr "Löschen"

msgctxt "verb"
msgid "Close"
msgstr "Schließen"
"""


def write(folder, language, text, *, name="app", binary=False):
    path = folder / language / "LC_MESSAGES" / f"{name}.po"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + text, encoding="utf-8")
    if binary:
        from babel.messages.mofile import write_mo
        from babel.messages.pofile import read_po

        with path.open("rb") as po, path.with_suffix(".mo").open("wb") as mo:
            write_mo(mo, read_po(po))
        path.unlink()


def pairs(folder, text="en", target="fr"):
    data = Catalogues(
        str(folder), columns=TargetColumns(text, target), splits=Splits(val=0, test=0)
    )
    data.setup("fit")
    return {row["text"]: row["target"] for row in data.rows("train")}


@pytest.mark.parametrize("binary", [False, True])
def test_texts_and_their_translations_are_read_and_cleaned(tmp_path, binary):
    write(tmp_path / "locale", "fr", FRENCH, binary=binary)
    assert pairs(tmp_path) == {
        "Delete": "Supprimer",
        "Close": "Fermer",
        "Hello %(name)s, <b>welcome</b> &amp; enjoy": (
            "Bonjour %(name)s, <b>bienvenue</b> &amp; bon séjour"
        ),
        "%d file": "%d fichier",
        "Name": "Nom",
    }


def test_two_translations_of_a_text_are_a_pair(tmp_path):
    write(tmp_path, "fr", FRENCH)
    write(tmp_path, "de_DE", GERMAN)
    write(tmp_path, "de_AT", 'msgid "Delete"\nmsgstr "Weg damit"\n')
    assert pairs(tmp_path, "fr", "de") == {"Supprimer": "Löschen", "Fermer": "Schließen"}
    assert pairs(tmp_path, "de", "en") == {"Löschen": "Delete", "Schließen": "Close"}
    assert pairs(tmp_path, "en", "de_AT") == {"Delete": "Weg damit"}


def test_a_repeated_text_has_its_first_translation(tmp_path, caplog):
    write(tmp_path / "a", "fr", FRENCH)
    write(tmp_path / "b", "fr", 'msgid "delete!"\nmsgstr "Effacer"\n')
    with caplog.at_level(logging.INFO):
        found = pairs(tmp_path)
    assert found["Delete"] == "Supprimer"
    assert "delete!" not in found
    assert f"{tmp_path}: 5 of 8 pairs; the others repeat a text" in caplog.text


def splits_of_originals(folder, text, target, originals):
    """Return the split of each English text.

    Args:
        originals: Returns the English text for a text in the language ``text``.
    """
    data = Catalogues(
        str(folder), columns=TargetColumns(text, target), splits=Splits(val=0.2, test=0.3)
    )
    data.setup("fit")
    splits = ("train", "validation", "test")
    return {originals(row["text"]): split for split in splits for row in data.rows(split)}


def test_an_english_text_is_in_the_same_split_in_all_languages(tmp_path):
    texts = [f"Word {number}" for number in range(60)]
    # Each language lacks other texts, and two texts have the same French translation.
    french = {text: f"Mot {number // 2 * 2}" for number, text in enumerate(texts) if number % 5}
    german = {text: f"Wort {number}" for number, text in enumerate(texts) if number % 3}
    for language, pairs_of in (("fr", french), ("de", german)):
        catalogue = "\n".join(f'msgid "{a}"\nmsgstr "{b}"\n' for a, b in pairs_of.items())
        write(tmp_path, language, catalogue)
    first = {}
    for text, target in french.items():
        first.setdefault(target, text)
    of_french = splits_of_originals(tmp_path, "en", "fr", str)
    of_german = splits_of_originals(tmp_path, "en", "de", str)
    of_both = splits_of_originals(tmp_path, "fr", "de", first.__getitem__)
    assert set(of_german.values()) == {"train", "validation", "test"}
    for one, other in ((of_french, of_german), (of_both, of_german), (of_both, of_french)):
        shared = one.keys() & other.keys()
        assert len(shared) > 10
        assert {text: one[text] for text in shared} == {text: other[text] for text in shared}


def test_split_sizes_of_catalogues_must_be_fractions(tmp_path):
    write(tmp_path, "fr", FRENCH)
    with pytest.raises(
        ValueError, match=r"test must be a fraction .*, got 2: .* data.splits.test=0.1"
    ):
        Catalogues(str(tmp_path), splits=Splits(val=0, test=2)).setup("fit")


def test_a_catalogue_is_read_by_context_and_text(tmp_path):
    write(tmp_path, "de", GERMAN)
    assert read_catalogue(tmp_path / "de" / "LC_MESSAGES" / "app.po") == {
        (None, "Delete"): "Löschen",
        ("verb", "Close"): "Schließen",
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("app.mo", b"not a catalogue at all"),
        ("app.mo", b""),
        ("app.po", b'msgid "a"\nmsgstr "\xff"\n'),
        ("app.po", b"nonsense\n"),
    ],
)
def test_a_damaged_catalogue_is_an_error(tmp_path, name, content):
    path = tmp_path / "fr" / "LC_MESSAGES" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not a valid gettext catalogue"):
        pairs(tmp_path)


def test_a_missing_language_is_an_error(tmp_path):
    write(tmp_path, "fr", FRENCH)
    with pytest.raises(FileNotFoundError, match="no texts in en and it in"):
        pairs(tmp_path, "en", "it")
    with pytest.raises(ValueError, match=r"columns.group must be null for catalogues, got 'g'"):
        Catalogues(str(tmp_path), columns=TargetColumns("en", "fr", "g")).setup("fit")


@pytest.mark.network
@pytest.mark.parametrize(("target", "rows"), [("fr", 15452), ("de", 15055)])
def test_the_packaged_catalogues_have_the_known_sizes(target, rows):
    data = Catalogues(columns=TargetColumns("en", target))
    data.setup("fit")
    assert data.n_train + data.n_val + data.n_test == rows

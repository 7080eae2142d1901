"""Optional dependencies."""

import pytest

from lightning_transfer.utils.extras import check_installed


def test_a_missing_library_is_reported_with_its_extra():
    message = r'the F1 needs the library no_such_thing, .* install "lightning_transfer\[tags\]"'
    with pytest.raises(ImportError, match=message):
        check_installed("no_such_thing", "the F1", extra="tags")

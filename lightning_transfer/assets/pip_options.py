"""Read the package index's address and certificates from where pip keeps them."""

import configparser
import os
import sys
from pathlib import Path

import platformdirs


def pip_option(name: str) -> str | None:
    """Return a global option of pip: from its variable, else from its configuration files.

    Args:
        name: The long option without dashes in front, such as ``index-url``.

    Returns:
        The value, or ``None`` if it is stated nowhere.

    Raises:
        configparser.Error: If a configuration file cannot be parsed.
    """
    stated = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if stated:
        return stated
    parser = configparser.RawConfigParser()
    parser.read(_files(), encoding="utf-8")  # later files win; absent ones are skipped
    return parser.get("global", name, fallback=None)


def _files() -> list[Path]:
    """Return pip's configuration files in pip's own rising order of precedence."""
    stated = os.environ.get("PIP_CONFIG_FILE")
    if stated == os.devnull:
        return []
    name = "pip.ini" if os.name == "nt" else "pip.conf"
    site = platformdirs.site_config_dir("pip", appauthor=False, multipath=True)
    # expanduser, not Path.home(): the latter raises for a user id without an account.
    home = Path(os.path.expanduser("~"))
    return [
        *(Path(folder) / name for folder in site.split(os.pathsep)),
        *([] if os.name == "nt" else [Path("/etc", name)]),
        home / ("pip" if os.name == "nt" else ".pip") / name,
        *([home / ".config" / "pip" / name] if sys.platform == "darwin" else []),
        platformdirs.user_config_path("pip", appauthor=False, roaming=True) / name,
        Path(sys.prefix) / name,
        *([Path(stated)] if stated else []),
    ]

"""The files that may hold a Kaggle key, and whether others can read them. What is in them is never read here."""

import os
import stat
import sys
from pathlib import Path


def files() -> list[Path]:
    """Every file with a key that the kaggle client would read, as far as there is one."""
    home = Path.home() / ".kaggle"
    elsewhere = os.environ.get("KAGGLE_CONFIG_DIR")
    configured = Path(elsewhere) if elsewhere else home
    if not elsewhere and not home.exists():
        configured = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    names = [home / "access_token", home / "access_token.txt", home / "credentials.json", configured / "kaggle.json"]
    token = os.environ.get("KAGGLE_API_TOKEN", "")
    return [path for path in [*names, *([Path(token)] if os.sep in token else [])] if path.is_file()]


def exposed() -> list[Path]:
    """Those that others than their owner can read or change."""
    return [path for path in files() if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]


def warn_exposed() -> None:
    for path in exposed():
        print(f"warning: others can read the Kaggle key in {path}: chmod 600 {path}", file=sys.stderr)

"""Where the image stores lie on this machine. No torch here, so that it can be asked without."""

import os
from pathlib import Path


def home() -> Path:
    """$CLCTL_CACHE, else $XDG_CACHE_HOME/clctl, else ~/.cache/clctl."""
    if given := os.environ.get("CLCTL_CACHE"):
        return Path(given)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "clctl"
    return Path(os.path.expanduser("~")) / ".cache" / "clctl"

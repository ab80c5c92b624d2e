"""Keys of the ini file that look like ours and are none: pytest itself only warns of them."""

from __future__ import annotations

import re
import warnings

import pytest

from ..naming import nearest
from ..options import OPTIONS


class IniKeys:
    """Refuses an unknown ini key of ours. pytest's warning is older than this run, and is told to
    every plugin that comes later."""

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        unknown = re.search(r"Unknown config option: (infopt\w*)", str(warning_message.message))
        if unknown is not None:
            known = [option.key for option in OPTIONS.values() if option.ini]
            raise pytest.UsageError(f"there is no ini key {unknown[1]}{nearest(unknown[1], known)}")

"""Writes the reference pages from the code: ``python docs/generate [FOLDER]``.

FOLDER is docs/reference unless another is given.
"""

import logging
import sys
from pathlib import Path

logging.disable(logging.WARNING)  # what libraries say while they are imported is not about pages

from pages import PAGES  # noqa: E402

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "reference")
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (folder / f"{name}.md").write_text(make(), encoding="utf-8")

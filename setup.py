"""What pyproject.toml cannot say: the long description, whose links work outside the repository.

Links to files of the repository lead nowhere on another page, so each becomes its text and the file's name; with the
address of the repository's files in NEXTN_FILES_URL, a link to that address instead.
"""

import os
import re
from pathlib import Path

from setuptools import setup

_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")
_NOTE = "\nDocuments named `docs/...` are in the source archive; installing puts them into `share/doc/nextn`.\n"


def long_description() -> str:
    """README.md with its relative links rewritten."""
    text = (Path(__file__).resolve().parent / "README.md").read_text(encoding="utf-8")
    url = os.environ.get("NEXTN_FILES_URL", "").rstrip("/")
    if url:
        return _LINK.sub(lambda link: f"[{link[1]}]({url}/{link[2]})", text)
    return _LINK.sub(lambda link: f"{link[1]} (`{link[2]}`)", text) + _NOTE


if __name__ == "__main__":
    setup(long_description=long_description(), long_description_content_type="text/markdown")

"""docs/errors.md: every mistake on the page is run, and the message that it raises is the one printed below it.

Run `python -m tools.mistakes` after changing a message: it writes the messages anew. tests/test_documents.py holds page and programs
together. May import: everything.
"""

from __future__ import annotations

import math
import re
import runpy
import tempfile
import warnings
from pathlib import Path

import numpy as np

import adjoint as ad

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errors.md"
MISTAKE = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<message>.*?)```", re.DOTALL)
NAMES = {"math": math, "np": np, "ad": ad, "nn": ad.nn, "optim": ad.optim, "train": ad.train}


def message_of(code: str) -> str:
    """What running this code as the file model.py raises: the error's name and message, with the file's folder left out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.py"
        path.write_text(code, encoding="utf-8")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                runpy.run_path(str(path), NAMES | {"folder": folder})
        except Exception as error:
            return f"{type(error).__name__}: {error}\n".replace(folder + "/", "")
    return "no error\n"


def written(text: str) -> str:
    """The page with the message of every mistake as it is now."""
    return MISTAKE.sub(lambda found: f"```python\n{found['code']}```\n\n```text\n{message_of(found['code'])}```", text)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

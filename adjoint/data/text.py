"""Text as numbers: the characters of a file in their order of code points, and a split into a training and a held-out end.

Invariant: decode(encode(text)) is the text; the split never reorders. May import: errors, stored. Read next: batches.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError, explain
from .stored import read_stored, refuse


@dataclass(frozen=True, eq=False)
class Text:
    """A text as character numbers, its beginning for training, its end held out.

    Shapes: training [characters], held_out [characters], both int64 in [0, len(vocabulary)).

    >>> text = Text.split("hello world", 0.5)
    >>> text.vocabulary, text.decode(text.training), text.encode("low")
    (' dehlorw', 'hello', array([4, 5, 7]))
    """

    vocabulary: str
    training: np.ndarray
    held_out: np.ndarray

    @classmethod
    def split(cls, content: str, share: float = 0.9) -> Text:
        """The first int(share * characters) for training, the rest held out; the vocabulary is that of the whole text."""
        if not 0 < share <= 1:
            raise ConfigError(explain(f"Text.split: share is {share!r}, expected a number above 0, at most 1.",
                                      remedy="For instance 0.9: nine tenths for training."))
        if not content:
            raise DataError(explain("Text.split: the text has no characters.", remedy="Give the content of a text file."))
        vocabulary = "".join(sorted(set(content)))
        numbers, first = _numbers(content, vocabulary), int(share * len(content))
        return cls(vocabulary, numbers[:first], numbers[first:])

    def encode(self, content: str) -> np.ndarray:
        """The numbers of these characters. Raises: DataError naming the first one that the vocabulary lacks."""
        return _numbers(content, self.vocabulary)

    def decode(self, numbers: np.ndarray) -> str:
        """The text of these numbers. Raises: DataError for a number outside the vocabulary."""
        numbers = np.asarray(numbers)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self.vocabulary)):
            raise DataError(explain(f"Text.decode: numbers go from {numbers.min()} to {numbers.max()}, the vocabulary has "
                                    f"{len(self.vocabulary)} characters.", remedy="Decode what this text's model predicts."))
        return "".join(self.vocabulary[n] for n in numbers.tolist())

    def windows(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Every non-overlapping window of the held-out end: (characters, the characters that follow them), each [windows, length].

        >>> x, y = Text.split("abcdefgh", 0.25).windows(2)
        >>> x.tolist(), y.tolist()
        ([[2, 3], [4, 5]], [[3, 4], [5, 6]])
        """
        count = (len(self.held_out) - 1) // length if length > 0 else 0
        if count < 1:
            raise ConfigError(explain(f"Text.windows: length is {length}, {len(self.held_out)} characters are held out.",
                                      remedy="Choose a positive length below the number of characters held out."))
        end = count * length
        return self.held_out[:end].reshape(count, length), self.held_out[1:end + 1].reshape(count, length)


def _numbers(content: str, vocabulary: str) -> np.ndarray:
    points = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    known = np.frombuffer(vocabulary.encode("utf-32-le"), np.uint32)
    found = np.minimum(np.searchsorted(known, points), len(known) - 1)
    wrong = np.flatnonzero(known[found] != points)
    if wrong.size:
        raise DataError(explain(f"Text.encode: the character {content[wrong[0]]!r} at {wrong[0]} is not in the vocabulary of "
                                f"{len(vocabulary)} characters.", remedy="Leave it out, or build the text from data that has it."))
    return found.astype(np.int64)


def load_text(path: str | os.PathLike, share: float = 0.9) -> Text:
    """Any UTF-8 text file as characters. Raises: DataError for a file that is missing, not UTF-8, or not what manifest.json lists."""
    path = Path(path)
    try:
        content = read_stored(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse(path, f"this is not UTF-8 text: byte {error.start} does not belong there.", "Convert the file to UTF-8.") from error
    if not content:
        raise refuse(path, "this text is empty.", "Give a file with text.")
    return Text.split(content, share)


def load_tiny_shakespeare(folder: str | os.PathLike) -> Text:
    """The tiny Shakespeare text: 1,115,394 characters, 65 distinct, the last tenth held out.

    Source: A. Karpathy, char-rnn, https://github.com/karpathy/char-rnn (data/tinyshakespeare/input.txt).
    Raises: DataError for a file that is missing or another one.
    """
    path = Path(folder) / "tinyshakespeare.txt"
    text = load_text(path)
    characters = len(text.training) + len(text.held_out)
    if (characters, len(text.vocabulary)) != (1_115_394, 65):
        raise refuse(path, f"it has {characters} characters, {len(text.vocabulary)} distinct, expected 1115394 and 65.",
                     "Fetch data/tinyshakespeare/input.txt of karpathy/char-rnn again.")
    return text

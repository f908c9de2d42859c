"""Numbers and strangers' text as a model card writes them."""

import re
from typing import Any

MARKDOWN = re.compile(r"([\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_]))")  # characters with a meaning in Markdown
LINE_START = re.compile(r"^(\d*)([#+=.)-])(?=[#+=-]*(?:\s|$))")  # those that make headings and lists at a line's start


def thousands(number: int) -> str:
    """12345 -> 12,345."""
    return f"{number:,}"


def counted(number: int, thing: str, things: str | None = None) -> str:
    """1 patch, 64 patches."""
    return f"{thousands(number)} {thing if number == 1 else things or thing + 's'}"


def one_line(text: Any) -> str | None:
    """Text on one line, without control characters; None if that is empty."""
    text = "" if text is None else str(text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line or None


def plain(text: Any) -> str:
    """Escape text so that Markdown shows it as it is, also in a table."""
    return LINE_START.sub(r"\1\\\2", MARKDOWN.sub(r"\\\1", one_line(text) or ""))

"""Text that others wrote, made harmless for whoever reads it next: a judge, or a terminal. Pure.

``quoted`` makes text from a world data within a prompt: one JSON string on one line. What stands in it can't end the
quotation, begin a line, change the order in which characters are shown, hide from a person what a model reads, or be
taken for a control token of a chat template. ``json.loads`` gives it back unchanged.

``printable`` makes what a judge wrote (or a server said) safe to print: what would move a cursor, change colours or
turn the order of characters around is shown as its escape.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Final

__all__ = ["printable", "quoted", "storable"]

# Unseen, or turning the line around: control, format (bidirectional marks, zero width, tags), surrogates, private use,
# unassigned, and separators of lines.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Variation selectors can carry bytes behind an innocent character.
_SELECTORS: Final = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_BIDI: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
# Special tokens look like <|im_end|>, </s>, <start_of_turn>, <｜User｜> or [/INST]: some servers read them in any text.
_TOKEN: Final = re.compile(rf"[<>{_SELECTORS}]|\[(?=/?[A-Z][A-Z_]*\])")
_CONTROL: Final = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_BIDI}\ud800-\udfff]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


def quoted(text: str) -> str:
    """Text from a world as data within a prompt: a JSON string (ASCII escapes where a character is not to be seen)."""
    plain = json.dumps(text, ensure_ascii=False)
    seen = "".join(c if c.isascii() or unicodedata.category(c) not in _UNSEEN else _escaped(c) for c in plain)
    return _TOKEN.sub(lambda found: _escaped(found.group()), seen.replace("\x7f", _escaped("\x7f")))


def printable(text: str) -> str:
    """Text for a terminal or a log: lines and tabs stay, anything that acts on the terminal is shown as an escape."""
    return _CONTROL.sub(lambda found: _escaped(found.group()), text)


def storable(text: str) -> str:
    """Text without halves of characters, which JSON can carry and UTF-8 can't: each is shown as an escape."""
    return _SURROGATE.sub(lambda found: _escaped(found.group()), text)


def _escaped(character: str) -> str:
    """As in JSON: \\u and four hex digits, two of them beyond the first plane."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))

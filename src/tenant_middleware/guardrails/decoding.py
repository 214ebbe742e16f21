"""Encoded passages written out: base64, base32, base85, hex, binary, URL, HTML and string escapes.

A passage is replaced in its place, so that a sentence with one encoded word reads as a whole. It counts only when
what comes out is text.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote_to_bytes

_LONGEST = 8_000
_MOST = 32
_READABLE = 0.9

Decode = Callable[[str], bytes]


def decoded(text: str) -> Iterator[tuple[str, str]]:
    """The text with every passage of one encoding replaced by what it says, once per encoding that occurs."""
    if "%" in text:
        yield from _replaced("url", _URL, unquote_to_bytes, text)
    if "&" in text:
        reading = html.unescape(text)
        if reading != text:
            yield "html", reading
    if "\\" in text:
        yield from _replaced("escape", _ESCAPES, _unescape, text)
    if _LONG_RUN.search(text):
        for kind, pattern, decode in _CODES:
            yield from _replaced(kind, pattern, decode, text)
    if "0x" in text or _NUMBERS_HINT.search(text):
        yield from _replaced("numbers", _NUMBERS, _from_numbers, text)


def readable(raw: bytes) -> str | None:
    """The bytes as text when they are text: UTF-8, hardly any symbols, no control characters."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not text or not all(c.isprintable() or c in "\n\r\t" for c in text):
        return None
    wordy = sum(c.isalnum() or c.isspace() or c in ".,;:!?'\"-_=()/" for c in text)
    return text if wordy >= _READABLE * len(text) and any(c.isalpha() for c in text) else None


def _replaced(kind: str, pattern: re.Pattern[str], decode: Decode, text: str) -> Iterator[tuple[str, str]]:
    budget = _MOST

    def read(match: re.Match[str]) -> str:
        nonlocal budget
        budget -= 1
        if budget < 0:
            return match.group()
        try:
            said = readable(decode(match.group()[:_LONGEST]))
        except (ValueError, binascii.Error):
            return match.group()
        return match.group() if said is None else f" {said} " if kind not in ("url", "escape") else said

    reading = pattern.sub(read, text)
    if reading != text:
        yield kind, reading


def _base64(run: str) -> bytes:
    """The whole run, or line by line: below the last line of a code there may stand a word that looks like one more."""
    lines = run.split("\n")
    if len(lines) == 1:
        return _base64_line(run)
    try:
        said = _base64_line("".join(lines))
        if readable(said) is not None:
            return said
    except (ValueError, binascii.Error):
        pass
    return b"\n".join(_said_or_written(line) for line in lines)


def _said_or_written(line: str) -> bytes:
    try:
        said = _base64_line(line)
    except (ValueError, binascii.Error):
        return line.encode()
    return line.encode() if readable(said) is None else said


def _base64_line(run: str) -> bytes:
    if run.isalpha() and (run.islower() or run[1:].islower()):
        raise ValueError("a word, not a code")
    run = run.replace("-", "+").replace("_", "/").rstrip("=")
    run = run[: len(run) - 1] if len(run) % 4 == 1 else run
    return base64.b64decode(run + "=" * (-len(run) % 4), validate=True)


def _base32(run: str) -> bytes:
    run = re.sub(r"\s", "", run).rstrip("=").upper()
    run = run[: len(run) - (len(run) % 8 in (1, 3, 6))]
    return base64.b32decode(run + "=" * (-len(run) % 8))


def _base85(run: str) -> bytes:
    run = run.removeprefix("<~").removesuffix("~>")
    try:
        said = base64.b85decode(run)
        if readable(said) is not None:
            return said
    except ValueError:
        pass
    return base64.a85decode(run)


def _hex(run: str) -> bytes:
    return bytes.fromhex(re.sub(r"0x|\\x|[\s:,-]", "", run))


def _binary(run: str) -> bytes:
    bits = re.sub(r"[^01]", "", run)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits) - 7, 8))


def _from_numbers(run: str) -> bytes:
    codes = [int(n, 0) if n[:2] == "0x" else int(n) for n in re.findall(r"0x[0-9a-fA-F]{2}|\d{2,3}", run)]
    if max(codes) > 255:
        raise ValueError("not character codes")
    return bytes(codes)


def _unescape(run: str) -> bytes:
    def char(match: re.Match[str]) -> str:
        code = int(next(g for g in match.groups() if g is not None), 16)
        return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else " "

    return _ESCAPE.sub(char, run).encode()


# A word is no code: one has a digit in it, or a capital after a small letter, or no break for long.
_LONG_RUN = re.compile(
    r"(?<![A-Za-z0-9+/_=-])(?=[A-Za-z0-9+/_=-]{0,40}?(?:[0-9]|[a-z][A-Z]))[A-Za-z0-9+/_=-]{8}|[0-9a-fA-F]{2}(?:[ :][0-9a-fA-F]{2}){5}|[01]{8}|<~|[^\s]{20}"
)
_NUMBERS_HINT = re.compile(r"\d{2,3}[ ,;-]{1,2}\d{2,3}[ ,;-]{1,2}\d{2,3}[ ,;-]{1,2}\d{2,3}[ ,;-]{1,2}\d{2,3}")
_NUMBERS = re.compile(r"(?:(?:0x[0-9a-fA-F]{2}|\b\d{2,3})[ ,;-]{1,2}){5,2000}(?:0x[0-9a-fA-F]{2}|\d{2,3})\b")
_URL = re.compile(r"(?:[\w.~-]{0,40}%[0-9a-fA-F]{2}){1,400}[\w.~-]{0,40}")
_ESCAPE = re.compile(r"\\u\{?([0-9a-fA-F]{4,6})\}?|\\x([0-9a-fA-F]{2})|\\U([0-9a-fA-F]{8})")
_ESCAPES = re.compile(r"(?:\\u\{?[0-9a-fA-F]{4,6}\}?|\\x[0-9a-fA-F]{2}|\\U[0-9a-fA-F]{8}){1,2000}")
_CODES: tuple[tuple[str, re.Pattern[str], Decode], ...] = (
    ("binary", re.compile(r"(?:[01]{8}[ ,]?){3,2000}"), _binary),
    (
        "hex",
        re.compile(r"\b(?:0x)?(?:[0-9a-fA-F]{2}){5,4000}\b|\b[0-9a-fA-F]{2}(?:[ :,-]{1,2}[0-9a-fA-F]{2}){5,2000}\b"),
        _hex,
    ),
    ("base32", re.compile(r"\b(?:[A-Z2-7]{16,4000}|[a-z2-7]{24,4000})={0,6}"), _base32),
    ("base64", re.compile(r"[A-Za-z0-9+/_-]{8,6000}={0,2}(?:\n[A-Za-z0-9+/_-]{8,6000}={0,2}){0,50}"), _base64),
    ("base85", re.compile(r"<~[!-u]{10,4000}~>|(?<!\S)[!-z{|}~]{20,4000}(?!\S)"), _base85),
)

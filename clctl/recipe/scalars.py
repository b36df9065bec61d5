"""What a plain word of YAML means: null, true or false, a number, or the text as written.

Source: YAML 1.2.2, Sec. 10.3.2 (core schema).
Differs: a number never starts with a needless zero and is never octal or hexadecimal, so that
`010` stays text; numbers are finite and integers fit 64 bits.
"""

import math
import re

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_UNBOUNDED = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))


def whole(text: str) -> str | None:
    """`text` with the surrogate pairs of JSON joined; None with NUL or half a character in it."""
    try:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    return None if "\0" in joined else joined


def resolve(word: str) -> str | int | float | bool | None:
    """The value of a plain (unquoted) word.

    Raises:
        ValueError: A number that is not finite, or an integer beyond 64 bits.
    """
    if word in _NULL:
        return None
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    if _INT.fullmatch(word):
        # Longer ones would meet Python's own limit on the digits of an integer.
        if len(word) <= 20 and -(2**63) <= int(word) < 2**63:
            return int(word)
        raise ValueError("this integer does not fit 64 bits")
    if _UNBOUNDED.fullmatch(word):
        raise ValueError("numbers must be finite")
    if _FLOAT.fullmatch(word):
        if math.isfinite(float(word)):
            return float(word)
        raise ValueError("this number is too large")
    return word

"""Whether folders look like classes, by their names and counts: rules few enough to be told.

1. Half or more of the names look like dates, camera folders, unnamed folders or numbered parts.
2. There are twenty folders or more, and fewer than two pictures for each.
3. All names are numbers of one width, 000 or longer, and all folders but the last hold the same
   1,000 or 10,000 pictures: the shelves of a dump, as FFHQ has them.

Anything else may be a class; `holiday/` beside `birthday/` is, for all that names tell.
"""

import re
from collections import Counter
from collections.abc import Mapping

from clctl.data.words import few

MANY = 20  # folders; fewer may well be a first handful of labelled pictures

_YEAR = r"(19|20)\d\d"
_KINDS = {
    # 2019, 2020-05, 20200517, "2020-05-17 Rome", "2019 Italy", 17.05.2020
    "dates": rf"{_YEAR}((0[1-9]|1[0-2])([0-3]\d)?)?([-_. ].*)?|\d\d?[-_.]\d\d?[-_.]({_YEAR}|\d\d)",
    # 100CANON and 101_PANA as cameras number them, IMG_2041, DCIM, "Camera Roll"
    "camera folders": (
        r"[1-9]\d\d[a-z_][a-z0-9_]{4}|(img|dscn?|dscf|pxl|mvi|gopr|pict|cimg)[-_ ]?\d{3,}"
        r"|dcim|camera( roll| uploads)?|screenshots?|downloads?"
    ),
    # "New folder (2)", "untitled folder"
    "unnamed folders": r"(new|untitled)[-_ ]folder.*|untitled.*|unsorted|misc|temp|tmp",
    # part1, batch_02, images_003
    "numbered parts": (
        r"(part|batch|shard|chunk|folder|dir|album|images?|pictures?|photos?)[-_ ]?\(?\d+\)?"
    ),
}


def doubt(pictures: Mapping[str, int]) -> str | None:
    """Why these folders are hardly classes, in words, or None.

    Args:
        pictures: Name of each folder -> pictures in it, nested ones included.
    """
    kinds = {name: kind for name in pictures if (kind := _kind(name)) is not None}
    if 2 * len(kinds) >= len(pictures):
        order = Counter(kinds.values()).most_common()
        words = " and ".join(kind for kind, _ in order[:2])
        return f"the folders {few(sorted(kinds))} look like {words}, not classes"
    total = sum(pictures.values())
    if len(pictures) >= MANY and total < 2 * len(pictures):
        return f"{total:,} pictures in {len(pictures):,} folders are too few to be classes"
    if _shelves(pictures):
        most = max(pictures.values())
        return f"the folders {few(sorted(pictures))} look like a dump in shelves of {most:,}"
    return None


def _shelves(pictures: Mapping[str, int]) -> bool:
    *full, last = (pictures[name] for name in sorted(pictures))
    numbers = all(re.fullmatch(r"\d{3,}", name) for name in pictures)
    even = len({len(name) for name in pictures}) == 1 and len(set(full)) == 1
    return numbers and even and full[0] in (1_000, 10_000) and last <= full[0]


def _kind(name: str) -> str | None:
    found = (k for k, pattern in _KINDS.items() if re.fullmatch(pattern, name, re.IGNORECASE))
    return next(found, None)

"""The document of `clctl data scan` in words."""

from collections.abc import Mapping
from shlex import quote
from typing import Any

from clctl.data.words import few, shown
from clctl.report.document import percent

NAMED = 20  # bad files
CLASSES = 12  # with their counts; the fewest and the most of more
PAIRS = 5
BAR = 40  # characters


def words(document: dict[str, Any], pooled: bool, recipe: list[str]) -> list[str]:
    """Lines for people.

    Args:
        document: clctl/data-scan/1.
        pooled: Whether a run would set a part aside as test.
        recipe: Lines of YAML.
    """
    size = f"{document['bytes'] / 1e6:,.1f} MB"
    lines = [
        *_alarms(document["duplicates"], document["splits"]),
        f"{document['path']}: {document['pictures']:,} pictures, {size}",
        f"  {document['labels_from']}",
        *(f"  note      {note}" for note in document["notes"]),
    ]
    for split, part in document["splits"].items():
        lines.append(f"  {split:<9} {part['pictures']:,}{_classes(part['classes'])}")
    lines += _sizes(document)
    lines += _kinds(document)
    lines += _bad(document["bad"])
    if document["ignored"]:
        lines.append(f"  ignored   {_counts(document['ignored'])}")
    lines += _twins(document["duplicates"], pooled)
    if document["sheet"] is not None:
        lines.append(f"  sheet     {document['sheet']}")
    whole = f"`clctl init {quote(document['path'])}` writes the whole recipe"
    return [
        *lines,
        f"to begin with, on a {document['machine']} ({whole}):",
        *map("  ".__add__, recipe),
    ]


def _alarms(found: dict[str, Any], splits: dict[str, Any]) -> list[str]:
    """Shared pictures first: a score that stands on them is wrong."""
    lines: list[str] = []
    for each in found["across_splits"]:
        count, of = each["exact"] + each["near"], splits[each["split"]]["pictures"]
        lines.append(
            f"DUPLICATES ACROSS SPLITS: {count:,} of {of:,} pictures of {each['split']} "
            f"({percent(count / of)}) have a twin in {each['other']}: "
            f"{each['exact']:,} the same bytes, {each['near']:,} nearly the same (copies, or neighbouring frames or slices)"
        )
        lines += [f"  {shown(a)} = {shown(b)}" for a, b in each["pairs"][:PAIRS]]
        if count > PAIRS:
            lines.append(f"  and {count - PAIRS:,} more (--json names all)")
    if lines:
        lines.append(
            "  A score on such data tells what was memorised too: "
            "remove the twins from one side,\n  or split again by their origin (patient, video, scene)."
        )
    return lines


def _classes(classes: Mapping[str, int] | None) -> str:
    if classes is None:
        return ""
    ranked = sorted(classes.items(), key=lambda item: (-item[1], item[0]))
    most, least = ranked[0], ranked[-1]
    if most[1] == least[1]:
        return f" ({len(ranked)} classes of {most[1]:,})"
    if len(ranked) <= CLASSES:
        text = ", ".join(f"{shown(name)} {count:,}" for name, count in ranked)
    else:
        text = f"{len(ranked)} classes, from {shown(least[0])} {least[1]:,} to {shown(most[0])} {most[1]:,}"
    if not least[1]:
        return f" ({text}; none of {few([name for name, count in ranked if not count])})"
    return f" ({text}; largest {most[1] / least[1]:.1f} times the smallest)"


def _sizes(document: dict[str, Any]) -> list[str]:
    width, height, short = (document[key] for key in ("width", "height", "short_side"))
    if width["min"] == width["max"] and height["min"] == height["max"]:
        lines = [f"  size      {width['min']:,}x{height['min']:,}, all of them"]
    else:
        lines = [f"  short     {_spread(short)} px (least, median, most)"]
        steps = list(short["histogram"])
        filled = [i for i, step in enumerate(steps) if step["pictures"]]
        most = max(step["pictures"] for step in steps)
        for step in steps[filled[0] : filled[-1] + 1]:
            high = step["below"]
            name = f"{step['from']}+" if high is None else f"{step['from']}-{high - 1}"
            bar = "#" * -(-BAR * step["pictures"] // most)
            lines.append(f"            {name:>9} {step['pictures']:>8,} {bar}".rstrip())
        lines.append(f"  width     {_spread(width)}; height {_spread(height)}")
    aspect = document["aspect"]
    text = f"{aspect['min']:.2f}, {aspect['median']:.2f}, {aspect['max']:.2f}, long over short"
    if long := aspect["longer_than_3_to_2"]:
        text += f"; {long:,} are longer than 3:2 and lose their ends (data.max_aspect)"
    return [*lines, f"  aspect    {text}"]


def _spread(values: Mapping[str, float]) -> str:
    return ", ".join(f"{values[key]:,.0f}" for key in ("min", "median", "max"))


def _kinds(document: dict[str, Any]) -> list[str]:
    modes = {"1-bit" if mode == "1" else mode: n for mode, n in document["modes"].items()}
    bits = ", ".join(f"{count:,} {bits}-bit" for bits, count in document["bits"].items())
    text = f"{_counts(document['formats'])}; {_counts(modes)}; {bits}"
    lines = [f"  format    {text}"]
    count, grey = document["pictures"], document["colourless"]
    if grey:
        lines.append(f"  colour    {'none' if grey == count else f'none in {grey:,} of {count:,}'}")
    if flat := document["flat"]:
        lines.append(f"  blank     {len(flat):,} are of one colour all over: {few(flat)}")
    return lines


def _bad(bad: list[dict[str, str]]) -> list[str]:
    if not bad:
        return []
    lines = [f"  BAD       {len(bad):,} cannot be decoded"]
    lines += [f"            {shown(each['id'])}: {each['reason']}" for each in bad[:NAMED]]
    more = len(bad) - NAMED
    return [*lines, f"            and {more:,} more (--json names all)"] if more > 0 else lines


def _twins(found: dict[str, Any], pooled: bool) -> list[str]:
    if not found["exact"] and not found["near"]:
        return ["  twins     none found"]
    lines = [
        f"  twins     {_groups(found['exact'])} of the same bytes, "
        f"{_groups(found['near'])} that look the same ({found['rule']['near']})"
    ]
    unlike = [group for group in found["exact"] + found["near"] if group["one_class"] is False]
    if unlike:
        lines.append(
            f"            {len(unlike):,} of these groups hold more than one class, "
            f"such as {few(unlike[0]['ids'], 3)}"
        )
    if pooled:
        lines.append(
            "            a run sets a fifth aside as test, so twins may fall on both sides: "
            "remove them first"
        )
    return lines


def _groups(groups: list[dict[str, Any]]) -> str:
    pictures = sum(len(group["ids"]) for group in groups)
    word = "group" if len(groups) == 1 else "groups"
    return f"{len(groups):,} {word} ({pictures:,} pictures)" if groups else "none"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())

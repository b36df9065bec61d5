"""A comparison in words, and as tables."""

import re
from typing import Any

from clctl.console import clean
from clctl.report.document import percent


def sentence(pair: dict[str, Any]) -> str:
    """One difference as a sentence, without its full stop."""
    low, high = (100 * end for end in pair["ci95"])
    better, worse = ("b", "a") if pair["difference"] >= 0 else ("a", "b")
    if better == "a":
        low, high = -high, -low
    points = f"{abs(100 * pair['difference']):.1f} points [{low:.1f}, {high:.1f}]"
    if not pair["significant"]:
        return f"no difference that is sure: {pair[better]} is ahead of {pair[worse]} by {points}"
    return f"{pair[better]} is better than {pair[worse]} by {points}"


def told(document: dict[str, Any]) -> str:
    """The lines for people of a comparison."""
    lines = [
        f"{document['images']:,} test images, the same for all, by {document['protocol']['by']}"
    ]
    width = max(len(m["name"]) for m in document["models"])
    for model in document["models"]:
        low, high = model["top1_ci95"]
        lines.append(
            f"  {model['name']:<{width}}  top1 {percent(model['top1'])} "
            f"(95 %: {percent(low)} to {percent(high)})"
        )
    for pair in document["differences"]:
        chance = "" if pair["p_value"] is None else f", p {pair['p_value']:.2g}"
        lines.append(f"{sentence(pair)} (95 % over {pair['over']}{chance})")
        lines += [f"    {line}" for line in pair.get("recipe") or ()]
    return "\n".join(lines)


def markdown(document: dict[str, Any]) -> str:
    """The tables for a pull request."""

    def cell(text: str) -> str:
        return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", clean(text).replace("\n", " "))

    lines = [
        f"### Compared on {document['images']:,} test images by {document['protocol']['by']}",
        "",
        "| model | top-1 | 95 % |",
        "|---|---|---|",
    ]
    for model in document["models"]:
        low, high = model["top1_ci95"]
        lines.append(f"| {cell(model['name'])} | {model['top1']:.4f} | {low:.4f} to {high:.4f} |")
    lines += ["", "| a | b | b - a in points | 95 % | over | p |", "|---|---|---|---|---|---|"]
    for pair in document["differences"]:
        low, high = (100 * end for end in pair["ci95"])
        chance = "" if pair["p_value"] is None else f"{pair['p_value']:.2g}"
        lines.append(
            f"| {cell(pair['a'])} | {cell(pair['b'])} | {100 * pair['difference']:+.2f} "
            f"| {low:+.2f} to {high:+.2f} | {pair['over']} | {chance} |"
        )
    return "\n".join(lines)

"""One part of the report page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own.

    Attributes:
        slug: Its id on the page: lower-case letters, digits and hyphens.
        title: The heading, plain text.
        lead: One or two plain sentences: what is seen, and what it means. Plain text.
        body: Trusted HTML; whatever came from outside is already escaped. Headings in it begin at h3.
        missing: Why the section is empty, plain text; None where it is not.
    """

    slug: str
    title: str
    lead: str
    body: str
    missing: str | None = None

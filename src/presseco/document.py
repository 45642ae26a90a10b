"""What travels through the stages: a raw piece of a source, then an article in the making."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

#: How the body of a piece is to be read.
Kind = Literal["text", "markdown", "html", "json", "row"]

#: Largest article read, in bytes: 100,000 characters (the limit of the corpus) of the longest UTF-8
#: French, eight times over for the mark-up of a web page. Whatever is larger is not one article.
MAX_BYTES = 4 * 1024 * 1024


class Unfit(Exception):  # noqa: N818 - not an error: the reason why an article is set aside
    """An article goes to quarantine for `reason`, one word, explained by `detail`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Piece:
    """One article as it stands in the source, not yet understood.

    `position` is its line or row in `file` (1 for a file that is one article), `resume` where to go
    on reading after it (a byte offset, or a number of rows). A piece that could not even be cut out
    has a `problem` in place of a body. `final` closes its file and carries no article.
    """

    file: str
    position: int
    resume: int
    kind: Kind = "text"
    body: bytes = b""
    fields: dict[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | None = None
    final: bool = False
    try_again: bool = False

    @property
    def where(self) -> str:
        """Return `file`, or `file:line` where the file holds many articles."""
        many = self.kind in ("json", "row") and self.fields.get("url") != self.file
        return f"{self.file}:{self.position}" if many or self.position > 1 else self.file


@dataclass(frozen=True, slots=True)
class Document:
    """An article on its way: text, headline, and what its source says about it."""

    where: str
    text: str
    title: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        """Tell whether somebody has already judged it: a label, or marked as out of domain."""
        return bool(self.fields.get("labels") or self.fields.get("out_of_domain"))

"""For the site: a link to a file of the repository that is no page, or to a folder, becomes its name, since
the site has none of it. mkdocs calls `on_page_markdown`; see mkdocs.yml."""

from __future__ import annotations

import posixpath
import re
from typing import Any, Final

LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page, links out of docs/ written out."""
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def written(match: re.Match[str]) -> str:
        text, target = match[1], posixpath.normpath(posixpath.join(folder, match[2].partition("#")[0]))
        page_or_picture = target.startswith("docs/") and posixpath.splitext(target)[1]
        return match[0] if page_or_picture else f"{text} (`{target}` in the repository)"

    return LINK.sub(written, markdown)

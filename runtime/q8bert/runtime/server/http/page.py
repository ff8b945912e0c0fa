"""The page at ``/``: one file without anything from elsewhere, in which a text can be typed and its label seen."""

import base64
import functools
import hashlib
import importlib.resources
import re

__all__ = ["page", "page_policy"]


@functools.cache
def page() -> str:
    """Return the page."""
    return (importlib.resources.files("q8bert.runtime.server.http") / "page.html").read_text(encoding="utf-8")


@functools.cache
def page_policy() -> str:
    """Return the page's Content-Security-Policy: its own script and style, requests to its own server, and no more."""
    sources = {}
    for element in ("script", "style"):
        found = re.findall(rf"<{element}>(.*?)</{element}>", page(), re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
        sources[element] = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

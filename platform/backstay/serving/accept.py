"""How the headers `Accept` and, in `compression`, `Accept-Encoding` choose a format."""

from functools import lru_cache

import mimeparse

from backstay.serving.wire import FORMATS, Format


@lru_cache(maxsize=256)
def negotiate(accept: str | None) -> Format | None:
    """The format that an `Accept` header prefers (RFC 9110, 12.5.1); None if it allows none.

    A format has the quality of the most specific range that matches it. The first of FORMATS wins a
    tie. A missing or empty header allows all; a malformed range is ignored. A range with a `dtype`
    matches that number format only; one without it matches float32.
    """
    if not accept or not accept.strip():
        return FORMATS[0]
    ranges = [parsed for part in accept.lower().split(",") if (parsed := _range(part))]
    qualities = {
        format_: mimeparse.quality_parsed(
            format_.media_type,
            [each for each in ranges if each[2].get("dtype", "float32") == format_.dtype],
        )
        for format_ in FORMATS
    }
    best = max(FORMATS, key=qualities.__getitem__)
    return best if qualities[best] > 0 else None


def _range(text: str) -> tuple[str, str, dict[str, str]] | None:
    """Type, subtype and parameters with `q` from 0 to 1; a bad `q` counts as 0. None: no range."""
    try:
        kind, subtype, parameters = mimeparse.parse_mime_type(text.strip())
    except mimeparse.MimeTypeParseException:
        return None
    return kind, subtype, {**parameters, "q": str(quality(parameters.get("q", "1")))}


def quality(text: str) -> float:
    """The value of a `q` parameter, from 0 to 1; a malformed one counts as 0."""
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0

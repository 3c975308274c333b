"""A response's content, ready to send: JSON, the same compressed, and its ETag.

Who names the ETag that it has (If-None-Match) gets 304 and no content. `Tuner-Behind-S` says that the content is older
than its study, and after how many seconds a newer one may be had.
"""

import gzip
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

LEAST_PACKED = 1024
LEVEL = 6
BEHIND = "Tuner-Behind-S"


@dataclass(frozen=True)
class Reply:
    """One JSON document. `packed` is null where compressing does not pay."""

    body: bytes
    packed: bytes | None
    etag: str

    @property
    def bytes(self) -> int:
        """Memory that it takes, in bytes."""
        return len(self.body) + len(self.packed or b"") + 200


def reply(content: BaseModel | dict[str, Any], *, tag_of: BaseModel | None = None) -> Reply:
    """Write a document. `tag_of` is what its ETag is made of, where parts of it change with the clock alone."""
    body = _written(content)
    tagged = body if tag_of is None else _written(tag_of)
    packed = gzip.compress(body, LEVEL, mtime=0) if len(body) >= LEAST_PACKED else None
    # Weak, because the compressed and the plain form have the same.
    return Reply(body, packed, f'W/"{hashlib.sha256(tagged).hexdigest()[:24]}"')


def _written(content: BaseModel | dict[str, Any]) -> bytes:
    if isinstance(content, BaseModel):
        return content.model_dump_json().encode()
    return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def respond(request: Request, content: Reply, behind_s: float = 0.0) -> Response:
    """Send a document, or say that the reader has it."""
    headers = {"ETag": content.etag, "Cache-Control": "private, no-cache", "Vary": "Accept-Encoding"}
    if behind_s > 0:
        headers[BEHIND] = f"{behind_s:.2f}"
    if _has(request, content.etag):
        return Response(status_code=304, headers=headers)
    if content.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(content.packed, headers=headers, media_type="application/json")
    return Response(content.body, headers=headers, media_type="application/json")


def wants_exact(request: Request) -> bool:
    """Whether a reader does not take what is behind."""
    return "no-cache" in request.headers.get("cache-control", "")


def _has(request: Request, etag: str) -> bool:
    if request.method not in ("GET", "HEAD"):
        return False
    bare = etag.removeprefix("W/")
    given = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return bare in given or "*" in given

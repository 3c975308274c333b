"""Responses that send files of the checkpoint store: streamed from a folder, fetched whole from a remote store."""

from fastapi.responses import FileResponse, Response

from tuner.store import FolderStore, Store

BYTES = "application/octet-stream"


def download(store: Store, path: str, *, filename: str, digest: str) -> Response:
    """Send a file, with its SHA-256 as the ETag. Raises `NotFound` if the file is gone."""
    headers = {"ETag": f'"{digest}"'}
    if isinstance(store, FolderStore):
        return FileResponse(store.existing(path), media_type=BYTES, filename=filename, headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    return Response(store.content(path), media_type=BYTES, headers=headers)

"""Writes archives, and reads shards to their end or their damage."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from typing import Any

from classifier.inputs import Ignored, InputOptions, ShardDamaged, iter_shard, list_inputs


def tar_bytes(members: Iterable[tuple[str, bytes]], mode: Any = "w", **settings: Any) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode, **settings) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def zip_bytes(members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return sink.getvalue()


def read_shards(*uris: Any) -> tuple[list[Any], Ignored, ShardDamaged | None]:
    """Returns (references and contents, ignored, damage or None) of one shard or several."""
    ignored, found = Ignored(), []
    try:
        for shard in list_inputs([str(uri) for uri in uris], InputOptions()):
            for item in iter_shard(shard, None, ignored):
                found.append(item)
    except ShardDamaged as damage:
        return found, ignored, damage
    return found, ignored, None


def facts(found: list[Any]) -> list[tuple[Any, ...]]:
    return [(ref.key, ref.labels, ref.split) for ref, _ in found]

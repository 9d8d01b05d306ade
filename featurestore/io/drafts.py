"""Names of unfinished files, from which others learn whether their writer still runs."""

from __future__ import annotations

import os
import platform
import re
import uuid

_DRAFT = re.compile(r"\.draft-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}")


def draft_name() -> str:
    """Returns a new name, made of this machine, this process and a random number."""
    return f".draft-{platform.node() or 'host'}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def is_dead_draft(name: str) -> bool:
    """Whether a file is a draft whose writer ran on this machine and has ended."""
    match = _DRAFT.fullmatch(name)
    if not match or match["host"] != (platform.node() or "host"):
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False

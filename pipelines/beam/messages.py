"""What went wrong, in a runner's error: Python's traceback, Java's, or a reply of gRPC."""

from __future__ import annotations

import re

MOST = 500
# How Beam quotes an exception of ours when it passes it on as text.
_OURS = re.compile(r"featurestore\.errors\.(?:\w+): (.+?)(?: \[while running|\\n|\n|$)")
_STEP = re.compile(r" \[while running .*\]")
_WORKER = re.compile(r"worker on \S+: ")
# The line of a Python traceback behind its indented frames.
_PYTHON = re.compile(
    r"Traceback \(most recent call last\):\n(?:[ \t]+.*\n|\n)*(\S.*)", re.MULTILINE
)
_CAUSE = re.compile(r"^\s*Caused by: (.+)", re.MULTILINE)
_JAVA = re.compile(
    r"^\s*(?:Exception in thread \S+ )?((?:\w+[.$])+\w*(?:Exception|Error)\b.*)", re.MULTILINE
)
# Hoarfrost's own packages, which a worker may lack.
_ABSENT = re.compile(r"No module named '(?:pipelines|classifier|featurestore)\b")


def of_ours(text: str) -> str:
    """Returns the message of our own error that a runner's error quotes last; "" for none."""
    found = _OURS.findall(text)
    return found[-1] if found else ""


def without_place(message: str, is_here: bool) -> str:
    """Removes Beam's name of the step, and that of the worker if it is on the user's machine.

    Example:
      >>> without_place("worker on n1: --engine openvino: absent [while running 'Extract']", True)
      '--engine openvino: absent'
    """
    message = _STEP.sub("", message)
    return _WORKER.sub("", message) if is_here else message


def reason_of(error: BaseException) -> str:
    """Returns the line of a runner's error that says what went wrong.

    It is a gRPC reply's details, or the end of the last Python traceback, or Java's last cause, or
    its first exception, or else the last line.

    Example:
      >>> reason_of(RuntimeError("java.lang.RuntimeException: a\\n\\tat b\\nCaused by: c.D: e\\n>"))
      'c.D: e'
    """
    if isinstance(error, SystemExit):
        return "the job server refuses one of the flags (see its log)"
    if type(error).__name__ == "FutureTimeoutError":
        return "nobody answers at --job_endpoint within --job_server_timeout"
    details = getattr(error, "details", None)
    text = str((details() if callable(details) else None) or error)
    reason = _line_of(text) or type(error).__name__
    if "StatusCode.UNAVAILABLE" in str(error):
        reason = f"the job server does not answer any more ({reason})"
    if _ABSENT.search(text):
        reason += " (a worker has no Hoarfrost: install the same version there)"
    return reason[:MOST]


def _line_of(text: str) -> str:
    for pattern, which in ((_PYTHON, -1), (_CAUSE, -1), (_JAVA, 0)):
        if found := pattern.findall(text):
            line = found[which].strip()
            # Java quotes the whole traceback of a Python worker behind its own words.
            if not line.endswith("Traceback (most recent call last):"):
                return _STEP.sub("", line)
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return lines[-1] if lines else ""

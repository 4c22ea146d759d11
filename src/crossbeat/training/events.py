"""What a run did, and when: log.jsonl, a line an event, written and read in whole lines."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

EVENTS: Final = "log.jsonl"


def utc_now() -> str:
    """The time in UTC to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def append_event(folder: Path, event: str, **facts: Any) -> None:
    """Append an event, with the time, to the log of `folder`, after whatever a kill left of the last line."""
    line = json.dumps({"time": utc_now(), "event": event, **facts}, default=str)
    with (folder / EVENTS).open("ab+") as log:
        log.seek(max(0, log.tell() - 1))
        log.write(b"\n" * (log.read(1) not in (b"", b"\n")) + line.encode() + b"\n")


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of the log of `folder`, oldest first, without lines that a kill cut off; none without a log."""
    log = folder / EVENTS
    events = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        with suppress(ValueError):
            events.append(json.loads(line))
    return events

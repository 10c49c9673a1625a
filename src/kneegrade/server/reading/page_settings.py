"""`PageSettings`: what `kneegrade viewer` remembers of a folder: how films name their person, and the port."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from kneegrade.files import write_text

SETTINGS_FILE: Final = "viewer.json"


@dataclass(frozen=True)
class PageSettings:
    """Settings of a folder.

    Attributes:
        subject: regular expression whose first group in a film's name is the person, or None.
        port: of the page when it was open last, or 0. A browser keeps unsaved changes by the address of the page.
    """

    subject: str | None = None
    port: int = 0

    @staticmethod
    def of(directory: Path) -> "PageSettings":
        """The settings of a folder; without a usable file those of a new one."""
        try:
            values = json.loads((directory / SETTINGS_FILE).read_text(encoding="utf-8"))
            subject, port = values.get("subject"), values.get("port")
            if isinstance(subject, str):
                re.compile(subject)
        except (OSError, ValueError, AttributeError, re.error):
            return PageSettings()
        is_port = isinstance(port, int) and 0 < port < 1 << 16
        return PageSettings(subject if isinstance(subject, str) else None, port if is_port else 0)

    def write(self, directory: Path) -> None:
        """Write the settings of a folder, if they have changed.

        Raises:
            UsageError: the file cannot be written.
        """
        if self != PageSettings.of(directory):
            write_text(directory / SETTINGS_FILE, json.dumps(asdict(self), indent=1) + "\n")

"""The sender's job file: where the ledger is and which campaign to work for. Everything else is in the ledger.

The file is what a Job mounts (or the local shell writes, mode 0600); it names the ledger by a file that holds the
DSN, so that no secret is ever in an argument or in the environment.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from fullsend.errors import InvalidInput, Problem


class SenderJob(BaseModel):
    """``dsn_file`` holds one libpq connection string; ``secrets_dir`` holds ``<secret name>/<key>`` files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dsn_file: Path
    campaign: int
    wave: int
    holder: str
    secrets_dir: Path

    @classmethod
    def in_pod(cls, campaign: int, wave: int, mounts: Path) -> Self:
        """The job of a pod, which finds ``ledger/dsn`` and ``secrets`` below ``mounts`` and is known by its name."""
        return cls(
            dsn_file=mounts / "ledger" / "dsn",
            campaign=campaign,
            wave=wave,
            holder=os.environ.get("HOSTNAME") or socket.gethostname(),
            secrets_dir=mounts / "secrets",
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises InvalidInput when the file can't be read or isn't a job."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InvalidInput([Problem(str(path), f"cannot be read: {error.strerror}")]) from error
        except ValidationError as error:
            raise InvalidInput(
                [Problem(str(path), f"{'.'.join(map(str, e['loc']))}: {e['msg']}") for e in error.errors()]
            ) from error

    def dsn(self) -> str:
        """The ledger's connection string. Raises InvalidInput when its file can't be read."""
        return read_secret_file(self.dsn_file)


def read_secret_file(path: Path) -> str:
    """A mounted secret's value, without the line end that editors add. Raises InvalidInput when it can't be read."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput([Problem(str(path), f"this secret cannot be read: {error}")]) from error

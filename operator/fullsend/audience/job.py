"""The plan job's file: where the ledger is, which campaign, and where its secrets, config maps and files are."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from fullsend.audience.sources.base import Mounts
from fullsend.errors import InvalidInput, Problem


class PlanJob(BaseModel):
    """``dsn_file`` holds one libpq connection string: no secret is ever in an argument or in the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dsn_file: Path
    tenant: str
    campaign: int
    secrets_dir: Path
    config_dir: Path
    base_dir: Path

    @classmethod
    def in_pod(cls, tenant: str, campaign: int, mounts: Path) -> Self:
        """The job of a pod, which finds ``ledger/dsn``, ``secrets``, ``config`` and the claims' ``files`` below
        ``mounts``."""
        return cls(
            dsn_file=mounts / "ledger" / "dsn",
            tenant=tenant,
            campaign=campaign,
            secrets_dir=mounts / "secrets",
            config_dir=mounts / "config",
            base_dir=mounts / "files",
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
                [Problem(str(path), f"{'.'.join(map(str, each['loc']))}: {each['msg']}") for each in error.errors()]
            ) from None

    def dsn(self) -> str:
        try:
            return self.dsn_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise InvalidInput(
                [Problem(str(self.dsn_file), "the ledger's DSN cannot be read from this file")]
            ) from None

    @property
    def mounts(self) -> Mounts:
        return Mounts(self.secrets_dir, self.config_dir, self.base_dir)

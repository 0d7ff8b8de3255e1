"""The claims on a version's number: a log in which every entry is created exclusively.

    versions/<k>/claim.json, claim-1.json, claim-2.json, …

The last entry is in force. A publisher appends a claim, and then a commit, which holds the manifest
and names the folder of the staged files. Whoever takes a number over appends an entry too, so that
of a commit and a take-over exactly one succeeds. Files are placed only after the commit, and after
it nobody takes the number over. So the files of two publishers never mix, even if the claim of a
living one is released by force. If the publisher is killed after its commit, whoever comes next
places the files and writes the manifest.
"""

import logging
import re
from dataclasses import asdict, dataclass, replace
from typing import Literal
from uuid import uuid4

from pydantic import TypeAdapter

from backstay.errors import RegistryError
from backstay.registry.manifest import now
from backstay.storage.documents import parse_sealed, seal
from backstay.storage.files import Files
from backstay.storage.processes import ProcessIdentity, is_dead, is_running, this_process

_log = logging.getLogger("backstay.registry")

_NAME = re.compile(r"claim(?:-(\d+))?\.json")


@dataclass(frozen=True, kw_only=True)
class Claim(ProcessIdentity):
    """One entry of the log: a process and its run."""

    run_id: str
    time: str  # UTC, ISO 8601
    nonce: str = ""  # random; the manifest of the publication carries it
    state: Literal["claimed", "released", "committed"] = "claimed"
    manifest: str | None = None  # of a commit: the text of manifest.json
    staging: str | None = None  # of a commit: the folder of the files, under staging/<run_id>

    @property
    def holder(self) -> str:
        """The run and process, for messages."""
        return f"run {self.run_id} (host {self.host}, process {self.pid})"


_claim = TypeAdapter(Claim)


def new_nonce() -> str:
    """A random name for a claim."""
    return uuid4().hex


def is_claim(name: str) -> bool:
    """Whether a file of a version's folder is an entry of the log."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class Claims:
    """The log of one version."""

    files: Files
    folder: str  # of the version

    def current(self) -> Claim | None:
        """The claim or commit in force."""
        entry = self._last()[1]
        return None if entry is None or entry.state == "released" else entry

    def take(self, run_id: str, *, nonce: str) -> Claim:
        """Claim the number for a run of this process; return the claim in force.

        It has another nonce if another run was first. A run takes over its own claim from a process
        of this host that has ended.

        Raises:
            RegistryError: The same run publishes in another process.
        """
        mine = Claim(run_id=run_id, time=now(), nonce=nonce, **asdict(this_process()))
        while True:
            number, holder = self._last()
            if holder and holder.state != "released":
                if holder.run_id != run_id or holder.state == "committed":
                    return holder
                if is_running(holder):
                    raise RegistryError(
                        f"{holder.holder} is publishing this very draft; let it finish or stop it "
                        "first."
                    )
                if not is_dead(holder):
                    return holder
            if self._append(number + 1, mine):
                return mine

    def commit(self, claim: Claim, manifest: bytes, *, staging: str) -> bool:
        """Make `claim` final; False where it is no longer in force."""
        number, found = self._last()
        entry = replace(claim, state="committed", manifest=manifest.decode(), staging=staging)
        return found in (claim, entry) and (found == entry or self._append(number + 1, entry))

    def release(self, claim: Claim) -> None:
        """Free the number from `claim`; RegistryError where it is no longer in force."""
        number, found = self._last()
        freed = replace(claim, nonce=new_nonce(), state="released", time=now())
        if found != claim or not self._append(number + 1, freed):
            raise RegistryError(
                f"{claim.holder} went on while its claim was being released. Look again with "
                "Space.claim."
            )
        _log.info("released the claim of run %s in %s", claim.run_id, self.folder)

    def _last(self) -> tuple[int, Claim | None]:
        """The number of the last entry, -1 without one, and the entry."""
        numbers = [
            int(match[1] or 0)
            for name in self.files.find(self.folder)
            if (match := _NAME.fullmatch(name))
        ]
        if not numbers:
            return -1, None
        path = self._path(max(numbers))
        data = self.files.read(path)
        entry = parse_sealed(_claim, data, path=self.files.full(path), unsealed=True)
        return max(numbers), entry

    def _append(self, number: int, entry: Claim) -> bool:
        return self.files.create(self._path(number), seal(asdict(entry), what="a claim"))

    def _path(self, number: int) -> str:
        return f"{self.folder}/claim{f'-{number}' if number else ''}.json"

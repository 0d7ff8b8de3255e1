"""Where a space keeps its files, and which of its versions are published.

<root>/<space>/versions/<k>/manifest.json        the version exists when this does
                            claim.json           which run published it, or is about to
"""

import logging
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from backstay.errors import NotFoundError, RegistryError
from backstay.registry.manifest import CLAIM, MANIFEST, Manifest, now
from backstay.storage.documents import canonical_json, parse_document
from backstay.storage.files import Files
from backstay.storage.processes import ProcessIdentity, is_running, this_process

_log = logging.getLogger("backstay.registry")


@dataclass(frozen=True, kw_only=True)
class Claim(ProcessIdentity):
    """The content of `claim.json`: the process that publishes a version, and its run."""

    run_id: str
    time: str  # UTC, ISO 8601


_claim = TypeAdapter(Claim)


@dataclass(frozen=True)
class SpaceFiles:
    """The files of one space: its manifests and claims."""

    files: Files
    name: str
    uri: str  # of the registry, for messages

    def path(self, version: int, name: str = "") -> str:
        """A version's folder, or a file in it, as a path in `files`."""
        return f"{self.name}/versions/{version}/{name}".rstrip("/")

    def versions(self) -> list[int]:
        """The published versions, ascending; retired ones too."""
        found = [v for v in self.files.folders(f"{self.name}/versions") if v.isdecimal()]
        return sorted(int(v) for v in found if self.files.exists(self.path(int(v), MANIFEST)))

    def latest(self) -> int:
        """The newest version; NotFoundError where nothing is published."""
        versions = self.versions()
        if not versions:
            known = ", ".join(spaces(self.files, self.uri)) or "none"
            raise NotFoundError(
                f"{self.uri} has no published version of {self.name} (spaces: {known}). "
                f"Publish one with `backstay update --registry {self.uri} --space {self.name} …`, "
                "or correct the name."
            )
        return versions[-1]

    def manifest(self, version: int) -> Manifest:
        """The manifest of a version."""
        path = self.path(version, MANIFEST)
        try:
            return Manifest.from_json(self.files.read(path), path=self.files.full(path))
        except FileNotFoundError:
            self.latest()
            raise NotFoundError(
                f"{self.name} has no version {version}; published are {self.versions()}."
            ) from None

    def claim(self, version: int) -> Claim | None:
        """Which run holds a number that is not published yet."""
        claim = self._read_claim(version)
        return None if self.files.exists(self.path(version, MANIFEST)) else claim

    def take_claim(self, version: int, *, run_id: str) -> bytes | Claim:
        """Claim a number for a run of this process: the claim's bytes, or the claim in its way.

        The same run may take over its own claim from a process that has ended.
        """
        claim = Claim(run_id=run_id, time=now(), **asdict(this_process()))
        data = canonical_json(asdict(claim), what="a claim")
        path = self.path(version, CLAIM)
        if self.files.create(path, data):
            return data
        holder = self._read_claim(version) or claim
        if holder.run_id != run_id:
            return holder
        if is_running(holder):
            raise RegistryError(
                f"{holder_name(holder)} is publishing this very draft; let it finish or stop it "
                "first."
            )
        self.files.write(path, data)
        return data

    def release_claim(self, version: int, *, force: bool = False) -> None:
        """Free a number that a dead run has claimed; what that run staged stays staged.

        Make sure that the run is dead: one that still publishes from another host can't be seen
        from here. `force` releases the claim of a process that runs on this host.
        """
        claim = self.claim(version)
        if claim is None:
            raise NotFoundError(f"{self.name} has no unfinished claim on version {version}.")
        if is_running(claim) and not force:
            raise RegistryError(
                f"run {claim.run_id} (process {claim.pid} of this host) is publishing "
                f"version {version} of {self.name}; let it finish or stop it first."
            )
        for name in self.files.find(self.path(version)):
            if name != CLAIM:
                self.files.remove(self.path(version, name))
        self.files.remove(self.path(version, CLAIM))  # last: until then nobody else comes in
        _log.info("released the claim of run %s on version %d", claim.run_id, version)

    def _read_claim(self, version: int) -> Claim | None:
        path = self.path(version, CLAIM)
        try:
            data = self.files.read(path)
        except FileNotFoundError:
            return None
        return parse_document(_claim, data, path=self.files.full(path))


def holder_name(claim: Claim) -> str:
    """The run and process of a claim, for messages."""
    return f"run {claim.run_id} (host {claim.host}, process {claim.pid})"


def spaces(files: Files, uri: str) -> list[str]:
    """The spaces under a registry's root with at least one published version."""
    return [
        name
        for name in files.folders("")
        if not name.startswith(".") and SpaceFiles(files, name, uri).versions()
    ]

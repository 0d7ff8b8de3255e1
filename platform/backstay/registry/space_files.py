"""Where a space keeps its files, and which of its versions are published.

<root>/<space>/versions/<k>/manifest.json        the version exists when this does
                            claim.json, …        which run published it, or is about to
"""

import logging
from dataclasses import dataclass, field
from typing import Self

from backstay.errors import CorruptError, NotFoundError, RegistryError
from backstay.registry.changes import change_token, renew_markers
from backstay.registry.claims import Claim, Claims, is_claim
from backstay.registry.manifest import MANIFEST, RETIRED, Manifest, is_safe_name
from backstay.storage.digests import check_file
from backstay.storage.files import Files
from backstay.storage.processes import is_running

_log = logging.getLogger("backstay.registry")


@dataclass(frozen=True)
class SpaceFiles:
    """The files of one space: its manifests and claims.

    It reads each manifest once, since manifests never change; `fresh` gives one that reads again.
    """

    files: Files
    name: str
    uri: str  # of the registry, for messages
    _manifests: dict[int, Manifest] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _checked: set[int] = field(default_factory=set, init=False, repr=False, compare=False)

    def fresh(self) -> Self:
        """The same space with nothing read yet."""
        return type(self)(self.files, self.name, self.uri)

    def path(self, version: int, name: str = "") -> str:
        """A version's folder, or a file in it, as a path in `files`."""
        return f"{self.name}/versions/{version}/{name}".rstrip("/")

    def versions(self) -> list[int]:
        """The published versions, ascending; retired ones too."""
        folders = self.files.folders(f"{self.name}/versions")
        found = [int(name) for name in folders if name.isdecimal() and str(int(name)) == name]
        return sorted(v for v in found if self.files.exists(self.path(v, MANIFEST)))

    def next_version(self) -> int:
        """The number that the next publication will have."""
        versions = self.versions()
        return versions[-1] + 1 if versions else 0

    def latest(self) -> int:
        """The newest version; NotFoundError where nothing is published."""
        versions = self.versions()
        if not versions:
            if not self.files.exists(""):
                raise NotFoundError(
                    f"found no registry at {self.uri}. Correct the path, or make one with "
                    f"`backstay update --registry {self.uri} --space {self.name} …`."
                )
            known = ", ".join(spaces(self.files, self.uri)) or "none"
            raise NotFoundError(
                f"{self.uri} has no published version of {self.name} (spaces: {known}). "
                f"Publish one with `backstay update --registry {self.uri} --space {self.name} …`, "
                "or correct the name."
            )
        return versions[-1]

    def manifest(self, version: int) -> Manifest:
        """The manifest of a version, checked against its folder and the version after it.

        Raises:
            NotFoundError: There is no such version.
            CorruptError: It was changed, is of another version, or is not the manifest on which
                the next version was built.
            RegistryError: It has a newer format.
        """
        manifest = self.find_manifest(version)
        if manifest is None:
            self.latest()
            raise NotFoundError(
                f"{self.name} has no version {version}; published are {self.versions()}."
            )
        if version not in self._checked:
            self._check_against_child(manifest)
            self._checked.add(version)
        return manifest

    def _check_against_child(self, manifest: Manifest) -> None:
        try:
            child = self.find_manifest(manifest.version + 1)
        except RegistryError:
            return  # it is reported where it is loaded
        if child and child.parent_manifest_sha256 not in (None, manifest.sha256):
            raise CorruptError(
                f"{self.full(manifest.version, MANIFEST)} should have SHA-256 "
                f"{child.parent_manifest_sha256}, as version {child.version} recorded it; found "
                f"{manifest.sha256}. It was changed after publishing: restore it from a copy."
            )

    def find_manifest(self, version: int) -> Manifest | None:
        """The manifest of a version, checked against its folder; None if there is none."""
        if version in self._manifests:
            return self._manifests[version]
        path = self.full(version, MANIFEST)
        try:
            data = self.files.read(self.path(version, MANIFEST))
        except FileNotFoundError:
            return None
        manifest = self._own(Manifest.from_json(data, path=path), version, path)
        self._manifests[version] = manifest
        return manifest

    def _own(self, manifest: Manifest, version: int, path: str) -> Manifest:
        """CorruptError where a manifest is of another space or version."""
        if (manifest.space, manifest.version) != (self.name, version):
            raise CorruptError(
                f"{path} is the manifest of {manifest.space} version {manifest.version}; expected "
                f"that of {self.name} version {version}. Restore it from a copy."
            )
        return manifest

    def change_token(self) -> str | None:
        """A text that differs once the space was written, by one request; see `changes`."""
        return change_token(self.files, self.name)

    def renew_markers(self) -> None:
        """Tell readers that the space was written; see `changes`."""
        renew_markers(self.files, self.name)

    def claims(self, version: int) -> Claims:
        """The log of claims on a number."""
        return Claims(self.files, self.path(version))

    def claim(self, version: int) -> Claim | None:
        """Which run holds a number that is not published yet."""
        if self.files.exists(self.path(version, MANIFEST)):
            return None
        claim = self.claims(version).current()
        return None if self.files.exists(self.path(version, MANIFEST)) else claim

    def finish_commit(self, version: int) -> bool:
        """Place the files of a commit and write its manifest; False where there is none to finish.

        Any process may do it, several at once too: all of them place the same bytes.

        Raises:
            RegistryError: A file of the commit is gone.
        """
        claim = self.claim(version)
        if claim is None or claim.manifest is None:
            return False
        data = claim.manifest.encode()
        path = f"the commit in {self.full(version)}"
        manifest = self._own(Manifest.from_json(data, path=path), version, path)
        try:
            self._place(manifest, f"{self.name}/staging/{claim.run_id}/{claim.staging}/files")
        except (FileNotFoundError, RegistryError) as error:
            if self.files.exists(self.path(version, MANIFEST)):
                return False  # another process was faster, and has cleared the staging place
            raise RegistryError(
                f"{claim.holder} has committed version {version} of {self.name}, and not all of "
                f"its files are there ({error}). Restore them from a copy in {self.full(version)}, "
                "or end that process and remove that folder."
            ) from error
        self.files.create(self.path(version, MANIFEST), data)
        self.renew_markers()
        return True

    def _place(self, manifest: Manifest, staged: str) -> None:
        """Put the staged files of a commit where readers look, and remove what else is there."""
        folder = self.path(manifest.version)
        strays = self.files.find(folder).keys() - {RETIRED, *manifest.files}
        if self.files.exists(f"{folder}/{MANIFEST}"):
            return  # the strays may have been added after the publication
        for name in strays:
            if not is_claim(name):
                self.files.remove(f"{folder}/{name}")
        for name, entry in manifest.files.items():
            try:
                self.files.place(f"{staged}/{name}", f"{folder}/{name}")
            except FileNotFoundError:  # harmless where it was placed before
                check_file(self.files, f"{folder}/{name}", entry)
            _log.debug("placed %s, %d bytes", name, entry.size)
        sizes = self.files.find(folder)
        for name, entry in manifest.files.items():
            if sizes.get(name) != entry.size:
                raise RegistryError(f"{name} has {sizes.get(name)} bytes instead of {entry.size}")
        self.files.sync(folder)

    def release_claim(self, version: int, *, force: bool = False) -> None:
        """Free a number that a dead run has claimed; what that run staged stays staged.

        Make sure that the run is dead: one that still publishes from another host can't be seen
        from here. `force` releases the claim of a process that runs on this host.
        """
        self.finish_commit(version)
        claim = self.claim(version)
        if claim is None:
            raise NotFoundError(f"{self.name} has no unfinished claim on version {version}.")
        if is_running(claim) and not force:
            raise RegistryError(
                f"run {claim.run_id} (process {claim.pid} of this host) is publishing "
                f"version {version} of {self.name}; let it finish or stop it first."
            )
        self.claims(version).release(claim)

    def full(self, version: int, name: str = "") -> str:
        """The full path of a version's folder, or of a file in it, for messages."""
        return self.files.full(self.path(version, name))


def spaces(files: Files, uri: str) -> list[str]:
    """The spaces under a registry's root with at least one published version."""
    return [
        name
        for name in files.folders("")
        if is_safe_name(name) and SpaceFiles(files, name, uri).versions()
    ]

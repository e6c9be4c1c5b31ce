"""Open and write `.edgeseq` files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import msgspec

from edgeseq_runtime.bundle.archive import archive_bytes, open_archive, sha256_of
from edgeseq_runtime.bundle.gates import AnyGate, RelativeGate
from edgeseq_runtime.bundle.manifest import LOW_PRECISION_FORMAT, Manifest, decode_manifest, encode_manifest
from edgeseq_runtime.bundle.reference import CaseArrays, unpack_reference
from edgeseq_runtime.errors import HashMismatch, MissingMember, UnsafeMember, UsageError
from edgeseq_runtime.files import write_file
from edgeseq_runtime.tensors import TensorSpec

MANIFEST = "manifest.json"
REFERENCE = "reference.safetensors"
_PRECISION = re.compile("[a-z0-9][a-z0-9_-]{0,31}")  # names a member of the archive, too


class Bundle:
    """An opened bundle. It holds the manifest; a member is read from the file when it is asked for, and verified each time.

    Attributes:
        path: the file.
        manifest: what it says of itself.
        member_sizes: bytes of each member.
        sha256: identity of the bundle: the hash of its manifest, which holds the hash of everything else.
    """

    def __init__(self, path: Path, manifest: Manifest, member_sizes: Mapping[str, int], sha256: str) -> None:
        self.path = path
        self.manifest = manifest
        self.member_sizes = dict(member_sizes)
        self.sha256 = sha256

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.manifest.outputs

    @property
    def state(self) -> dict[str, str]:
        """Input that carries state -> output that continues it."""
        return self.manifest.state

    def member(self, precision: str) -> str:
        """Name of the member with the model of one precision.

        Raises:
            UsageError: the bundle has no such precision.
        """
        member = self.manifest.precisions.get(precision)
        if member is None:
            have = ", ".join(self.manifest.precisions)
            raise UsageError(f"{self.path} has no precision '{precision}'; it has: {have}")
        return member

    def read(self, member: str) -> bytes:
        """A member's bytes, verified.

        Raises:
            UsageError: the file is gone.
            BundleError: it has been changed or damaged since it was opened.
        """
        with open_archive(self.path) as archive:
            if member not in archive.namelist():
                raise _missing(self.path, member)
            data = archive.read(member)
        _require_hash(self.path, self.manifest, member, hashlib.sha256(data).hexdigest())
        return data

    def model(self, precision: str = "fp32") -> bytes:
        """The serialised ONNX model of one precision.

        Raises:
            UsageError: the bundle has no such precision, or the file is gone.
            BundleError: the file has been changed or damaged since it was opened.
        """
        return self.read(self.member(precision))

    @property
    def reference_bytes(self) -> bytes:
        """The reference values as they are stored."""
        return self.read(REFERENCE)

    def reference(self) -> tuple[CaseArrays, ...]:
        """The reference values, checked.

        Raises:
            BadReference: they are missing, misshapen, or hold NaN or infinity.
            BundleError, UsageError: as `read`.
        """
        return unpack_reference(self.reference_bytes, self.manifest)

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, name={self.name!r})"


def open_bundle(path: str | PathLike[str], *, verify_all: bool = True) -> Bundle:
    """Open a `.edgeseq` file and verify every byte of it.

    Args:
        path: the file.
        verify_all: False verifies the manifest alone now and a member when it is read, for who wants one of them: the reference
            values are often larger than the model.

    Raises:
        UsageError: no such file.
        BundleError: one of its subclasses, by what is wrong.
    """
    path = Path(path)
    with open_archive(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if MANIFEST not in sizes:
            raise MissingMember(f"{path} has no member '{MANIFEST}'; it is no edgeseq bundle (members: {sorted(sizes)[:4]})")
        manifest_bytes = archive.read(MANIFEST)
        manifest = decode_manifest(manifest_bytes)
        declared = {MANIFEST, REFERENCE, *manifest.sha256}
        for name in sorted({*declared, *manifest.precisions.values()} - set(sizes)):
            raise _missing(path, name)
        for name in sorted(set(sizes) - declared):
            raise UnsafeMember(f"{path} holds '{name}', which its manifest does not name; don't use this file")
        for name in sorted(set(sizes) - {MANIFEST}) if verify_all else ():
            _require_hash(path, manifest, name, sha256_of(archive, name))
    return Bundle(path, manifest, sizes, hashlib.sha256(manifest_bytes).hexdigest())


def _missing(path: Path, member: str) -> MissingMember:
    return MissingMember(f"{path} has no member '{member}', which its manifest names; copy or export it again")


def _require_hash(path: Path, manifest: Manifest, member: str, found: str) -> None:
    if found != manifest.sha256.get(member):
        raise HashMismatch(
            f"{path}: member '{member}' has sha256 {found[:16]}..., the manifest says "
            f"{str(manifest.sha256.get(member))[:16]}...; the file was changed after export: copy or export it again"
        )


def write_bundle(path: str | PathLike[str], manifest: Manifest, models: Mapping[str, bytes], reference: bytes) -> Path:
    """Write a bundle whole or not at all; the same arguments give the same bytes.

    Args:
        path: the `.edgeseq` file.
        manifest: all fields but `sha256`, which is filled in here.
        models: ONNX bytes by member name, as `manifest.precisions` names them.
        reference: what `pack_reference` gave.
    """
    path = Path(path)
    members = {**dict(sorted(models.items())), REFERENCE: reference}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    manifest_bytes = encode_manifest(msgspec.structs.replace(manifest, sha256=hashes))
    decode_manifest(manifest_bytes)
    write_file(path, archive_bytes({MANIFEST: manifest_bytes, **members}), what="the bundle")
    return path


def with_precision(
    bundle: Bundle,
    precision: str,
    model: bytes,
    gate: AnyGate,
    path: str | PathLike[str],
    *,
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Write a bundle with one more precision; all else, the reference values too, is as it was.

    The model keeps the declared interface, dtypes included: a graph that computes in float16 casts inside, which `open_session`
    checks. What is written is whole or not there; the same arguments give the same bytes.

    Args:
        bundle: the one to start from; a model that it already has at this precision is replaced.
        precision: small letters, digits, `_` and `-`, such as `int8`; not `fp32`, which is what the others are measured against.
        model: its ONNX model, serialised.
        gate: how far from float64 it may be; `LOW_PRECISION_GATES` has some.
        path: the `.edgeseq` file, which may be the bundle's own.
        provenance: how the model was made; each name is noted as `precision.name`.

    Raises:
        UsageError: the precision can't be called that, the model is empty, or the file can't be written.
    """
    if precision == "fp32" or not _PRECISION.fullmatch(precision):
        raise UsageError(f"a bundle can't be given precision '{precision}'; name it like int8, and export again for another fp32")
    if not model:
        raise UsageError(f"the {precision} model for {bundle.path} is empty; give its serialised ONNX")
    manifest = bundle.manifest
    precisions = {**manifest.precisions, precision: f"model.{precision}.onnx"}
    gates = {name: manifest.gate(name) for name in manifest.precisions} | {precision: gate}
    relative = {name: one for name, one in gates.items() if isinstance(one, RelativeGate)}
    noted = {name: text for name, text in manifest.provenance.items() if not name.startswith(f"{precision}.")}
    changed = msgspec.structs.replace(
        manifest,
        format=max(manifest.format, LOW_PRECISION_FORMAT) if relative else manifest.format,
        precisions=precisions,
        tolerances={name: one for name, one in gates.items() if not isinstance(one, RelativeGate)},
        relative_tolerances=relative,
        provenance={**noted, **{f"{precision}.{name}": text for name, text in (provenance or {}).items()}},
    )
    models = {member: model if name == precision else bundle.model(name) for name, member in precisions.items()}
    return write_bundle(path, changed, models, bundle.reference_bytes)

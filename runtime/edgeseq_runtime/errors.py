"""Every error a user can meet, in one tree.

    EdgeseqError
    +-- UsageError            a request that makes no sense: unknown name, wrong option, file not found
    +-- InputError            arrays that do not fit the model: name, dtype, rank or size
    +-- BundleError           a .edgeseq file that can't be trusted or read
    |   +-- TruncatedBundle, UnknownFormat, MissingMember, HashMismatch, UnsafeMember, OversizedMember, BadManifest,
    |       BadReference, BadModel
    +-- DeviceError           a device profile that does not exist or does not parse
    +-- ProviderError         a backend or execution provider that was asked for and is not there
    +-- StreamError           a stream that can't be made, or was used wrongly
    |   +-- PoolFull          no slot for one more stream
    |   +-- PoolBusy          no place for one more step to wait
    |   +-- PoolClosed        the pool has been closed, or its process has forked
    |   +-- DeadlineExceeded  a step that was not run, because it was too late
    |   +-- StepCancelled     a step that was not run, because of another one or because its stream left
    |   +-- SnapshotError     bytes that are no snapshot, are damaged, or belong to another model
    +-- ExportError           a module that can't become a bundle
        +-- UnsupportedModule it has no faithful graph; the message says what to write instead
        +-- PostconditionError the graph was made and is wrong; nothing was written

Each message says what was asked, what was found and what to do.
"""

from __future__ import annotations


class EdgeseqError(Exception):
    """Base of every error that edgeseq raises on purpose."""


class UsageError(EdgeseqError):
    """The request itself is wrong: an unknown name, an impossible option, a file that is not there."""


class InputError(EdgeseqError, ValueError):
    """An array does not fit the model: its name, dtype, rank or size."""


class BundleError(EdgeseqError):
    """A bundle can't be read, or must not be trusted."""


class TruncatedBundle(BundleError):
    """The file ends before the archive does, or is no archive at all."""


class UnknownFormat(BundleError):
    """The bundle was written in a format version that this release does not read."""


class MissingMember(BundleError):
    """The manifest names a member that the archive does not hold."""


class HashMismatch(BundleError):
    """A member's bytes are not those the manifest recorded."""


class UnsafeMember(BundleError):
    """A member's name leads outside the archive, is repeated, or is not in the manifest."""


class OversizedMember(BundleError):
    """A member is compressed, or claims more bytes than the file has: a zip bomb."""


class BadManifest(BundleError):
    """The manifest does not follow its schema, or contradicts itself."""


class BadReference(BundleError):
    """The reference values are missing, misshapen, or hold NaN or infinity."""


class BadModel(BundleError):
    """The ONNX model is cut short, damaged, or nested beyond reason."""


class DeviceError(EdgeseqError):
    """A device profile does not exist or does not parse."""


class ProviderError(EdgeseqError):
    """A backend or an execution provider was asked for and is not what the session got."""


class StreamError(EdgeseqError):
    """A stream can't be made from this model, or was used wrongly."""


class SnapshotError(StreamError):
    """A snapshot can't be restored: no snapshot, damaged, or another model's."""


class PoolFull(StreamError):
    """Every slot of a pool is taken by a stream."""


class PoolBusy(StreamError):
    """As many steps wait in a pool as may."""


class PoolClosed(StreamError):
    """The pool has been closed, or belongs to the process that this one was forked from."""


class DeadlineExceeded(StreamError, TimeoutError):
    """A step of a pool's stream had not started by its deadline. It was not run; the state is as before it."""


class StepCancelled(StreamError):
    """A step of a pool's stream was not run: one before it was not, its stream left, or the pool closed."""


class ExportError(EdgeseqError):
    """A module can't become a bundle. Nothing was written."""


class UnsupportedModule(ExportError):
    """The module has no faithful graph; the message names the part and says what to write instead."""


class PostconditionError(ExportError):
    """The graph was made, checked, and found wrong. Nothing was written."""

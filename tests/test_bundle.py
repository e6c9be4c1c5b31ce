"""Bundles: what is written comes back, and nothing that was damaged is believed."""

import hashlib
import io
import json
import struct
import zipfile

import msgspec
import numpy as np
import pytest
import runtime_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseq_runtime.bundle import Gate, ReferenceCase, open_bundle, pack_reference
from edgeseq_runtime.bundle.archive import archive_bytes
from edgeseq_runtime.errors import (
    BadManifest,
    BadReference,
    BundleError,
    HashMismatch,
    MissingMember,
    OversizedMember,
    TruncatedBundle,
    UnknownFormat,
    UnsafeMember,
    UsageError,
)

SIZES = ({"T": 3, "B": 2},)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a bundle that is right."""
    return runtime_models.gru().write(tmp_path_factory.mktemp("b") / "m.edgeseq", SIZES, draws=2).read_bytes()


def members_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def rebuilt(data, members=None, manifest=None, *, rehash=False):
    """A bundle with members exchanged (None: left out) and manifest fields changed, as one who means harm would write it."""
    found = {name: new for name, new in {**members_of(data), **(members or {})}.items() if new is not None}
    if "manifest.json" in found and (manifest is not None or rehash):
        fields = {**json.loads(found["manifest.json"]), **(manifest or {})}
        if rehash:
            names = [name for name in found if name != "manifest.json"]
            fields["sha256"] = {name: hashlib.sha256(found[name]).hexdigest() for name in names}
        found["manifest.json"] = json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()
    return archive_bytes(found)


def opened(data, tmp_path):
    (tmp_path / "damaged.edgeseq").write_bytes(data)
    bundle = open_bundle(tmp_path / "damaged.edgeseq")
    bundle.reference()
    return bundle


def refused(data, tmp_path, error, match):
    with pytest.raises(error, match=match) as raised:
        opened(data, tmp_path)
    assert type(raised.value) is error


def test_what_is_written_comes_back(tmp_path):
    model = runtime_models.lstm(lengths=True)
    bundle = open_bundle(model.write(tmp_path / "m.edgeseq", SIZES, draws=3, notes=("a note",), horizon={"y": 2}))
    assert (bundle.name, bundle.inputs, bundle.outputs) == ("lstm", model.inputs, model.outputs)
    assert bundle.state == {"h": "h_out", "c": "c_out"}
    assert bundle.model() == model.onnx
    assert bundle.manifest.lengths == {"lengths": "T"}
    assert bundle.manifest.census == {"LSTM": 1}
    assert bundle.manifest.tolerances == {"fp32": Gate(k=4, k999=8)}
    assert bundle.manifest.notes == ("a note",)
    (case,) = bundle.reference()
    assert case.case == ReferenceCase({"T": 3, "B": 2}, 3, {"y": 2})
    expected = model.case(SIZES[0], 3)
    for kind in ("inputs", "float32", "float64"):
        for name, array in getattr(expected, kind).items():
            found = getattr(case, kind)[name]
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
    assert case.draw_inputs(1)["x"].shape == (3, 2, 3)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    one, other = (runtime_models.gru().write(tmp_path / name, SIZES, draws=2) for name in ("a.edgeseq", "b.edgeseq"))
    assert one.read_bytes() == other.read_bytes()
    assert open_bundle(one).sha256 == open_bundle(other).sha256
    third = runtime_models.gru(seed=5).write(tmp_path / "c.edgeseq", SIZES, draws=2)
    assert open_bundle(third).sha256 != open_bundle(one).sha256


def test_members_are_stored_as_they_are(good):
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.namelist() == ["manifest.json", "model.onnx", "reference.safetensors"]
    assert members_of(good)["model.onnx"] in good


def test_nothing_is_left_behind_where_writing_fails(tmp_path):
    (tmp_path / "m.edgeseq").mkdir()
    with pytest.raises(UsageError, match="can't write the bundle"):
        runtime_models.gru().write(tmp_path / "m.edgeseq", SIZES, draws=1)
    assert [path.name for path in tmp_path.iterdir()] == ["m.edgeseq"]


def test_the_helper_that_rebuilds_does_no_damage_by_itself(good, tmp_path):
    assert opened(rebuilt(good), tmp_path).model() == opened(good, tmp_path).model()
    assert opened(rebuilt(good, manifest={}, rehash=True), tmp_path).name == "gru"


def test_an_unknown_precision_names_those_there_are(good, tmp_path):
    with pytest.raises(UsageError, match="no precision 'int8'; it has: fp32"):
        opened(good, tmp_path).model("int8")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        open_bundle(tmp_path / "none.edgeseq")
    with pytest.raises(UsageError, match="Is a directory"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("member", ["model.onnx", "reference.safetensors"])
def test_a_changed_member_is_found_by_its_hash(good, member, tmp_path):
    data = bytearray(members_of(good)[member])
    data[len(data) // 2] ^= 1
    refused(rebuilt(good, {member: bytes(data)}), tmp_path, HashMismatch, f"'{member}' has sha256")


def test_a_member_without_a_hash_is_refused(good, tmp_path):
    hashes = json.loads(members_of(good)["manifest.json"])["sha256"]
    del hashes["reference.safetensors"]
    refused(rebuilt(good, manifest={"sha256": hashes}), tmp_path, HashMismatch, "manifest says None")


@pytest.mark.parametrize(("found", "advice"), [(4, "upgrade"), (0, "export the model again"), (-1, "export")])
def test_an_unknown_format_says_which_side_is_old(good, found, advice, tmp_path):
    refused(rebuilt(good, manifest={"format": found}), tmp_path, UnknownFormat, f"format {found}.*{advice}")


def test_a_bundle_of_the_first_format_is_read(good, tmp_path):
    """It has neither text nor generation."""
    old = opened(rebuilt(good, manifest={"format": 1, "text": ..., "generation": ...}), tmp_path)
    assert old.manifest.generation is None


def test_a_newer_format_is_told_before_its_new_fields_are(good, tmp_path):
    refused(rebuilt(good, manifest={"format": 4, "novelty": 1}), tmp_path, UnknownFormat, "format 4")


@pytest.mark.parametrize("member", ["manifest.json", "model.onnx", "reference.safetensors"])
def test_a_missing_member_is_named(good, member, tmp_path):
    refused(rebuilt(good, {member: None}), tmp_path, MissingMember, f"no member '{member}'")


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/model.onnx", "a/../../b", "C:\\model.onnx", "a\\b", "folder/", "c:model"])
def test_a_member_that_leads_outside_is_refused(good, name, tmp_path):
    refused(rebuilt(good, {name: b"x"}), tmp_path, UnsafeMember, "leads outside the bundle")


def test_a_name_cut_short_by_a_nul_byte_is_refused(good, tmp_path):
    data = rebuilt(good, {"modelX.onnx": b"x"}).replace(b"modelX.onnx", b"model\0.onnx")
    refused(data, tmp_path, UnsafeMember, "leads outside")


def test_a_member_nobody_declared_is_refused(good, tmp_path):
    refused(rebuilt(good, {"extra.bin": b"x"}), tmp_path, UnsafeMember, "'extra.bin', which its manifest does not name")


def test_a_member_that_is_there_twice_is_refused(good, tmp_path):
    buffer = io.BytesIO(good)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("model.onnx", b"another")
    refused(buffer.getvalue(), tmp_path, UnsafeMember, "two members named 'model.onnx'")


def test_very_many_members_are_refused(good, tmp_path):
    refused(rebuilt(good, {f"m{i}": b"" for i in range(70)}), tmp_path, UnsafeMember, "holds 73 members")


def cut_points(data):
    """Where a copy could stop: at and around every member's header and data, and the directory at the end."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        starts = [info.header_offset for info in archive.infolist()]
        directory = archive.start_dir
    edges = [0, 1, *starts, *(start + 30 for start in starts), *(start + 60 for start in starts), directory, len(data) - 22]
    return sorted({max(0, min(len(data) - 1, edge + step)) for edge in [*edges, len(data)] for step in (-1, 0, 1)})


def test_a_file_cut_short_anywhere_is_refused(good, tmp_path):
    for at in cut_points(good):
        refused(good[:at], tmp_path, TruncatedBundle, "cut short, damaged, or no bundle")


def test_another_kind_of_file_is_refused(tmp_path):
    for data in (b"", b"PK", b"\x7fELF" * 100, b"{}"):
        refused(data, tmp_path, TruncatedBundle, "no bundle")
    refused(archive_bytes({"a.txt": b"x"}), tmp_path, MissingMember, "it is no edgeseq bundle")


def test_a_bomb_of_zeros_is_refused_unopened(good, tmp_path):
    buffer = io.BytesIO(good)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    assert len(buffer.getvalue()) < 200_000
    refused(buffer.getvalue(), tmp_path, OversizedMember, "'zeros' is compressed .*claim to be 50000000")


def lie_about_size(data, name, claimed):
    """Both headers of a stored member say that it is larger than it is."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info, directory = archive.getinfo(name), archive.start_dir
    forged = bytearray(data)
    struct.pack_into("<II", forged, info.header_offset + 18, claimed, claimed)
    entry = data.index(name.encode(), directory) - 46
    struct.pack_into("<II", forged, entry + 20, claimed, claimed)
    return bytes(forged)


def test_a_member_that_claims_gigabytes_is_refused(good, tmp_path):
    refused(lie_about_size(good, "model.onnx", 3_000_000_000), tmp_path, OversizedMember, "claim 30000")


def test_a_member_that_overlaps_its_neighbour_is_refused(good, tmp_path):
    size = len(members_of(good)["model.onnx"])
    with pytest.raises(BundleError):
        opened(lie_about_size(good, "model.onnx", size + 1000), tmp_path)


def test_many_members_over_the_same_bytes_are_refused(good, tmp_path):
    """The directory names one big member's bytes many times over."""
    data = rebuilt(good, {f"copy{i}": b"" for i in range(9)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        big, directory = archive.getinfo("reference.safetensors"), archive.start_dir
    forged = bytearray(data)
    for i in range(9):
        entry = data.index(f"copy{i}".encode(), directory) - 46
        struct.pack_into("<II", forged, entry + 20, big.file_size, big.file_size)
        struct.pack_into("<I", forged, entry + 42, big.header_offset)
    refused(bytes(forged), tmp_path, OversizedMember, "members claim")


def test_an_encrypted_member_is_refused(good, tmp_path):
    forged = bytearray(good)
    forged[6] |= 1
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        forged[archive.start_dir + 8] |= 1
    refused(bytes(forged), tmp_path, TruncatedBundle, "damaged")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"novelty": 1}, "unknown field `novelty`"),
        ({"outputs": ...}, "missing required field `outputs`"),
        ({"name": 3}, "Expected `str`"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [1.5]}]}, "Expected"),
        ({"inputs": [{"name": "x", "dtype": "object", "shape": []}]}, "'x: object\\[\\]' is no tensor"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [-1]}]}, "is no tensor"),
        ({"state": {"h": "nowhere"}}, "names no input or no output"),
        ({"state": {"x": "y"}}, "differ"),
        ({"lengths": {"L": "T"}}, "lengths input 'L' is not declared"),
        ({"precisions": {"int8": "model.onnx"}}, "there is no fp32 model"),
        ({"tolerances": {}}, "precision 'fp32' has no gate"),
        ({"reference": [{"sizes": {"T": 0}, "draws": 1}]}, "reference case 0 is empty"),
        ({"format": "one"}, "not a bundle's manifest"),
    ],
)
def test_a_manifest_that_breaks_its_schema_or_contradicts_itself(good, change, match, tmp_path):
    refused(rebuilt(good, manifest=change), tmp_path, BadManifest, match)


@pytest.mark.parametrize("text", [b"", b"not json", b"[1]", b'{"format": 1', b"[" * 200_000, b"\xff\xfe"])
def test_a_manifest_that_is_no_json_object(good, text, tmp_path):
    refused(rebuilt(good, {"manifest.json": text}), tmp_path, BadManifest, "not a bundle's manifest")


def with_reference(good, change):
    """The bundle with its reference arrays changed and every hash made right again."""
    case = runtime_models.gru().case(SIZES[0], 2)
    arrays = {kind: {name: array.copy() for name, array in getattr(case, kind).items()} for kind in case._fields[1:]}
    change(arrays)
    return rebuilt(good, {"reference.safetensors": pack_reference([case._replace(**arrays)])}, rehash=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["inputs", "float32", "float64"])
def test_a_reference_that_is_no_number_is_refused(good, kind, value, tmp_path):
    def change(arrays):
        next(iter(arrays[kind].values()))[0, 0, 0, 0] = value

    refused(with_reference(good, change), tmp_path, BadReference, "holds NaN or infinity")


def test_a_reference_that_does_not_fit_the_manifest_is_refused(good, tmp_path):
    def missing(arrays):
        del arrays["float64"]["y"]

    def extra(arrays):
        arrays["inputs"]["z"] = np.zeros(3)

    def fewer_draws(arrays):
        arrays["float32"]["y"] = arrays["float32"]["y"][:1]

    def other_size(arrays):
        arrays["float64"]["y"] = arrays["float64"]["y"][:, :2]

    def single(arrays):
        arrays["float64"]["y"] = arrays["float64"]["y"].astype(np.float32)

    changes = ((missing, "missing or unknown"), (extra, "missing or unknown"), (fewer_draws, "has shape"))
    for change, match in (*changes, (other_size, "has shape"), (single, "has dtype float32")):
        refused(with_reference(good, change), tmp_path, BadReference, match)


def test_a_reference_that_is_no_safetensors_file_is_refused(good, tmp_path):
    sound = members_of(good)["reference.safetensors"]
    header = struct.pack("<Q", 2**62)
    for data in (b"", b"\0" * 8, sound[:-1], header + sound[8:], b"pickle" * 20):
        refused(rebuilt(good, {"reference.safetensors": data}, rehash=True), tmp_path, BadReference, "can't be read")


def test_every_error_says_what_to_do(good, tmp_path):
    damaged = [
        good[:-30],
        rebuilt(good, {"model.onnx": None}),
        rebuilt(good, {"model.onnx": b"x"}),
        rebuilt(good, {"../x": b""}),
        rebuilt(good, manifest={"format": 9}),
    ]
    for data in damaged:
        with pytest.raises(BundleError, match=r"again|don't use this file|upgrade"):
            opened(data, tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 2**31), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_refused_or_change_nothing(good, tmp_path, flips):
    forged = bytearray(good)
    for at, mask in flips:
        forged[at % len(forged)] ^= mask
    check_refused_or_same(bytes(forged), good, tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), mask=st.integers(1, 255))
def test_flipped_bytes_of_the_directory_are_refused_or_change_nothing(good, tmp_path, at, mask):
    forged = bytearray(good)
    forged[-1 - at % 250] ^= mask
    check_refused_or_same(bytes(forged), good, tmp_path)


def check_refused_or_same(data, good, tmp_path):
    """A BundleError and nothing else, or the very same content."""
    try:
        bundle = opened(data, tmp_path)
    except BundleError:
        return
    original = members_of(good)
    read = {name: bundle.read(name) for name in bundle.member_sizes if name != "manifest.json"}
    assert {**read, "manifest.json": original["manifest.json"]} == original
    assert bundle.manifest == msgspec.json.decode(original["manifest.json"], type=type(bundle.manifest))
    assert bundle.sha256 == hashlib.sha256(original["manifest.json"]).hexdigest()

"""Cached arrays: read back unchanged, replaced if damaged, and never half-written."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.cache import NamedArrays, cached, read, write

ARRAYS: NamedArrays = {
    "x": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "t": np.array([1, 0]),
    "n": np.array(10),
}


def refuse() -> NamedArrays:
    raise AssertionError("built although it was there")


def assert_alike(found: NamedArrays | None) -> None:
    assert found is not None
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_arrays_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file.npz"
    assert_alike(cached(path, "1", lambda: ARRAYS))
    assert_alike(cached(path, "1", refuse))

    assert [file.name for file in path.parent.iterdir()] == ["file.npz"]


def test_another_fingerprint_replaces_the_file(tmp_path: Path) -> None:
    write(tmp_path / "file.npz", "1", {"x": np.zeros(3)})
    assert_alike(cached(tmp_path / "file.npz", "2", lambda: ARRAYS))
    assert_alike(read(tmp_path / "file.npz", "2"))

    assert read(tmp_path / "file.npz", "1") is None


@given(data=st.data())
def test_a_damaged_file_is_never_read_as_a_whole_one(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cache") / "file.npz"
    write(path, "1", ARRAYS)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255))
    path.write_bytes(
        data.draw(st.sampled_from([whole[:cut], whole[:cut] + bytes([byte]) + whole[cut + 1 :]]))
    )
    found = read(path, "1")

    if found is not None:
        assert_alike(found)


NPY = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }".ljust(117)
    + b"\n\0"
)


@pytest.mark.parametrize(
    "data",
    [b"", b"text", b"PK\x03\x04 not really a zip", NPY],
    ids=["empty", "text", "zip", "one array"],
)
def test_a_damaged_file_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    (tmp_path / "file.npz").write_bytes(data)
    assert_alike(cached(tmp_path / "file.npz", "1", lambda: ARRAYS))
    assert_alike(cached(tmp_path / "file.npz", "1", refuse))

    assert f"{tmp_path}/file.npz is damaged" in caplog.text


def test_pickled_objects_are_not_read(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "file.npz", fingerprint=np.array(["1", "x"]), x=np.array([{}], dtype=object)
    )

    assert read(tmp_path / "file.npz", "1") is None


def test_a_read_only_folder_logs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert_alike(cached(tmp_path / "file" / "file.npz", "1", lambda: ARRAYS))

    assert "cannot be written" in caplog.text


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pickle"):
        write(tmp_path / "file.npz", "1", {"x": np.array([{}], dtype=object)})

    assert list(tmp_path.iterdir()) == []

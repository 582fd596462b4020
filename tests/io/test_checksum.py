import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from common.io.checksum import find_damage, seal
from common.networks.weights import read_checkpoint, write_checkpoint

CONTENT = {"unet.weight": torch.arange(12.0).view(3, 4), "step": 7, "names": ["a", "b"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A checkpoint and an array with a checksum, and a checkpoint of somebody else without one."""
    folder = tmp_path_factory.mktemp("files")
    write_checkpoint(folder / "sealed.pt", CONTENT)
    np.save(folder / "array.npy", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    seal(folder / "array.npy")
    torch.save(CONTENT, folder / "plain.pt")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(content: object) -> bool:
    return repr(content) == repr(CONTENT)


def test_sealed_files_are_read_by_everybody(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert find_damage(tmp_path / name) is None
    for mmap in (False, True):
        assert same(torch.load(tmp_path / "sealed.pt", weights_only=True, mmap=mmap))
    with zipfile.ZipFile(tmp_path / "sealed.pt") as archive:
        assert archive.testzip() is None
    for mode in (None, "r"):
        assert np.load(tmp_path / "array.npy", mmap_mode=mode).sum() == sum(range(60))
    assert find_damage(tmp_path / "plain.pt", sealed=True) == "it does not end with its checksum"


@pytest.mark.parametrize("name", ["sealed.pt", "array.npy"])
def test_a_changed_byte_is_noticed_wherever_it_is(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    """Header, data, padding, central directory and the checksum itself; and a file that is cut off anywhere."""
    data, path, choose = files[name], tmp_path / name, random.Random(0)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= choose.choice([1 << choose.randrange(8), choose.randrange(1, 256)])
        path.write_bytes(changed)
        assert find_damage(path, sealed=True), place
        if name.endswith(".pt"):
            with pytest.raises(ValueError, match="sealed.pt (is damaged|cannot be read)"):
                read_checkpoint(path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert find_damage(path, sealed=True), length


def test_of_a_file_without_a_checksum_what_changes_weights_is_noticed(files: dict[str, bytes], tmp_path: Path) -> None:
    """Of torch.save alone, whose zip file has CRCs of the data: the rest is padding and fields that nobody reads."""
    data, path, choose, noticed = files["plain.pt"], tmp_path / "plain.pt", random.Random(1), 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= choose.choice([0x10, choose.randrange(1, 256)])  # 0x10 marks a folder, whose data are zeros
        path.write_bytes(changed)
        try:
            assert same(read_checkpoint(path)), place
        except ValueError:
            noticed += 1
    assert noticed > len(data) / 3
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="plain.pt"):
            read_checkpoint(path)


def test_a_checkpoint_saved_without_crcs_is_read(tmp_path: Path) -> None:
    """https://github.com/tracel-ai/burn/issues/5712: torch.save can be told to write a CRC of 0 for every entry."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, tmp_path / "a.pt")
        write_checkpoint(tmp_path / "b.pt", CONTENT)
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(read_checkpoint(tmp_path / "a.pt")) and same(read_checkpoint(tmp_path / "b.pt"))

import fcntl
import json
import logging
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from common.data.datasets.feature_cache import FeatureCache, FeatureKey, hash_array

KEY = FeatureKey("weights", "input", {"spacing": [1.0, 1.0, 1.0]})


def never():
    raise AssertionError("computed although cached")


def ones(size=4):
    return lambda: {"z": torch.ones(size)}


def only_entry(root):
    (path,) = (root / "entries").glob("*/*")
    return path


def test_hit_returns_what_was_computed(tmp_path):
    cache = FeatureCache(tmp_path)
    base = torch.arange(12.0).view(3, 4)
    output = {
        "view": base.T,
        "shares": base[0],
        "half": base.bfloat16(),
        "scalar": torch.tensor(3),
        "none": torch.empty(0, 2),
        "grad": base.clone().requires_grad_(),
    }
    computed = cache.get_or_compute(KEY, lambda: output)
    found = cache.get_or_compute(KEY, never)
    assert computed.keys() == found.keys() == output.keys()
    for name, tensor in output.items():
        assert torch.equal(found[name], tensor.detach()) and torch.equal(computed[name], tensor.detach())
        assert found[name].dtype == tensor.dtype and not found[name].requires_grad
    assert (cache.hits, cache.misses) == (1, 1)
    found["view"].zero_()
    assert torch.equal(cache.get_or_compute(KEY, never)["view"], base.T), "callers may change what they get"


@pytest.mark.parametrize(
    "other",
    [KEY._replace(weights="w2"), KEY._replace(input="i2"), KEY._replace(transform={"spacing": [1.0, 1.0, 2.0]})],
    ids=["weights", "input", "transform"],
)
def test_any_change_is_a_miss(tmp_path, other):
    cache = FeatureCache(tmp_path)
    cache.get_or_compute(KEY, ones())
    assert cache.get(other) is None
    cache.get_or_compute(other, lambda: {"z": torch.zeros(4)})
    assert torch.equal(cache.get(KEY)["z"], torch.ones(4))
    assert cache.misses == 2


def test_key_does_not_depend_on_dict_order():
    assert FeatureKey("w", "i", {"a": 1, "b": 2}).digest() == FeatureKey("w", "i", {"b": 2, "a": 1}).digest()
    with pytest.raises(TypeError, match="JSON types"):
        FeatureKey("w", "i", {"dtype": torch.float32}).digest()
    with pytest.raises(TypeError, match=r"hashes \(str\)"):
        FeatureKey(b"w", "i", None).digest()


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "swap"])
def test_damaged_entry_is_computed_again_with_a_warning(tmp_path, caplog, damage):
    cache = FeatureCache(tmp_path)
    cache.get_or_compute(KEY, ones())
    path = only_entry(tmp_path)
    data = path.read_bytes()
    if damage == "swap":
        path.unlink()
        cache.get_or_compute(KEY._replace(input="other"), ones())
        os.rename(only_entry(tmp_path), path)
    else:
        path.write_bytes({"truncate": data[:-3], "flip": data[:-1] + b"\x07", "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        found = cache.get_or_compute(KEY, lambda: {"z": torch.full((4,), 2.0)})
    assert torch.equal(found["z"], torch.full((4,), 2.0))
    assert len(caplog.records) == 1 and "computed again" in caplog.text
    assert torch.equal(cache.get_or_compute(KEY, never)["z"], found["z"])


def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path):
    """Also in the header: a dtype or shape of the same size used to be believed."""
    FeatureCache(tmp_path).get_or_compute(KEY, lambda: {"y": torch.arange(6.0).view(2, 3), "z": torch.ones(2)})
    path, choose = only_entry(tmp_path), random.Random(0)
    data = path.read_bytes()
    places = [(place, choose.randrange(1, 256)) for place in range(len(data))]
    places += [(data.index(b"F32"), ord("F") ^ ord("I")), *((data.index(b"[2,3]") + i, 1) for i in (1, 3))]
    for place, change in places:
        changed = bytearray(data)
        changed[place] ^= change
        path.write_bytes(changed)
        assert FeatureCache(tmp_path).get(KEY) is None, place
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert FeatureCache(tmp_path).get(KEY) is None, length


def test_entries_of_before_are_read(tmp_path):
    """Their checksum said nothing of dtypes and shapes."""
    cache, tensors = FeatureCache(tmp_path), {"b": torch.ones(3), "a": torch.arange(2)}
    crc = 0
    for name in ("a", "b"):
        crc = zlib.crc32(tensors[name].numpy().tobytes(), zlib.crc32(name.encode(), crc))
    path = tmp_path / "entries" / KEY.digest()[:2] / f"{KEY.digest()}.safetensors"
    path.parent.mkdir()
    save_file(tensors, path, metadata={"key": KEY.to_json(), "crc32": str(crc)})
    assert torch.equal(cache.get_or_compute(KEY, never)["b"], torch.ones(3))


def test_failing_function_leaves_nothing(tmp_path):
    cache = FeatureCache(tmp_path)
    with pytest.raises(ZeroDivisionError):
        cache.get_or_compute(KEY, lambda: 1 / 0)
    with pytest.raises(TypeError, match="dict of tensors"):
        cache.get_or_compute(KEY, lambda: torch.ones(1))
    assert (
        cache.size_bytes() == 0 and not list((tmp_path / "locks").iterdir()) and not list((tmp_path / "tmp").iterdir())
    )
    cache.get_or_compute(KEY, ones())


def _worker(root, log, barrier):
    cache = FeatureCache(root)

    def compute():
        with open(log, "a") as file:
            file.write("x")
        time.sleep(0.3)
        return {"z": torch.ones(1000)}

    barrier.wait()
    assert torch.equal(cache.get_or_compute(KEY, compute)["z"], torch.ones(1000))


def test_one_of_several_processes_computes(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    log = tmp_path / "log"
    workers = [context.Process(target=_worker, args=(tmp_path / "cache", log, barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert log.read_text() == "x"
    assert not list((tmp_path / "cache" / "locks").iterdir())


def test_killed_writer_leaves_no_entry(tmp_path):
    program = (
        "import os, signal, torch\n"
        "from common.data.datasets.feature_cache import FeatureCache\n"
        f"cache = FeatureCache({str(tmp_path)!r})\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache.get_or_compute(('w', 'i', None), lambda: {'z': torch.ones(3)})\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=os.getcwd())
    assert result.returncode == -9
    cache = FeatureCache(tmp_path)
    assert cache.size_bytes() == 0
    assert torch.equal(cache.get_or_compute(("w", "i", None), ones(3))["z"], torch.ones(3))
    (leftover,) = (tmp_path / "tmp").iterdir()
    os.utime(leftover, (0, 0))
    FeatureCache(tmp_path)
    assert not leftover.exists()


def keys(n):
    return [KEY._replace(input=f"case {i}") for i in range(n)]


def test_least_recently_used_goes_first(tmp_path):
    a, b, c, d = keys(4)
    cache = FeatureCache(tmp_path)
    for key in (a, b, c):
        cache.get_or_compute(key, ones(1000))
        time.sleep(0.01)
    size = cache.size_bytes()
    cache = FeatureCache(tmp_path, max_bytes=size + 100)
    assert cache.get(a) is not None  # now b is the oldest
    cache.get_or_compute(d, ones(1000))
    assert [cache.get(key) is not None for key in (a, b, c, d)] == [True, False, True, True]
    assert cache.size_bytes() <= cache.max_bytes


def test_entry_being_read_is_not_evicted(tmp_path):
    a, b, c = keys(3)
    cache = FeatureCache(tmp_path)
    cache.get_or_compute(a, ones(1000))
    size = cache.size_bytes()
    path = only_entry(tmp_path)
    time.sleep(0.01)
    cache.get_or_compute(b, ones(1000))
    with open(path, "rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        FeatureCache(tmp_path, max_bytes=2 * size + 100).get_or_compute(c, ones(1000))
        assert path.exists() and cache.get(b) is None


def test_output_above_the_limit_is_returned_but_not_stored(tmp_path, caplog):
    cache = FeatureCache(tmp_path, max_bytes=1000)
    assert cache.get_or_compute(KEY, ones(1000))["z"].shape == (1000,)
    assert cache.size_bytes() == 0 and "not cached" in caplog.text
    with pytest.raises(ValueError, match="max_bytes"):
        FeatureCache(tmp_path, max_bytes=0)


def test_an_entry_says_what_it_is_and_a_copied_cache_reads_it(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.get_or_compute(KEY, ones())
    with safe_open(only_entry(tmp_path), framework="pt") as file:
        assert FeatureKey(**json.loads(file.metadata()["key"])) == KEY
    assert torch.equal(pickle.loads(pickle.dumps(cache)).get(KEY.digest())["z"], torch.ones(4))


def test_hash_array():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert hash_array(array) == hash_array(torch.from_numpy(array)) == hash_array(array.T.copy().T)
    assert hash_array(np.array(1, np.float32)) == hash_array(torch.tensor(1.0))
    different = [array, array.T, array.astype(np.float64), array + 1, array.reshape(-1), array.astype(np.int32)]
    assert len({hash_array(a) for a in different}) == len(different)


def test_hash_file_remembers_inside_the_cache(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path / "cache")
    folder = tmp_path / "user"
    folder.mkdir()
    file = folder / "ct.nii.gz"
    file.write_bytes(b"first")
    os.utime(file, (1000, 1000))
    first = cache.hash_file(file)
    folder_hash = cache.hash_file(folder)
    assert [p.name for p in folder.iterdir()] == ["ct.nii.gz"]
    remembered = [p.read_text() for p in (tmp_path / "cache" / "file_hashes").iterdir()]
    assert len(remembered) == 1 and "user" not in remembered[0]  # a path may name the patient
    with monkeypatch.context() as m:
        m.setattr("hashlib.file_digest", lambda *_: never())
        assert cache.hash_file(file) == first
    file.write_bytes(b"other")
    os.utime(file, (2000, 2000))
    assert cache.hash_file(file) != first
    assert cache.hash_file(folder) != folder_hash
    with pytest.raises(FileNotFoundError):
        cache.hash_file(folder / "absent")


def test_a_file_changed_in_place_with_its_size_and_time_is_another(tmp_path):
    cache, file = FeatureCache(tmp_path / "cache"), tmp_path / "ct.raw"
    file.write_bytes(b"first")
    os.utime(file, (1000, 1000))
    first = cache.hash_file(file)
    time.sleep(0.02)
    file.write_bytes(b"other")
    os.utime(file, (1000, 1000))
    assert cache.hash_file(file) != first
    for memo in (tmp_path / "cache" / "file_hashes").iterdir():
        memo.write_text(memo.read_text()[:-3])  # a damaged memory is none
    assert cache.hash_file(file) != first


def test_fresh_file_is_not_remembered(tmp_path):
    cache = FeatureCache(tmp_path / "cache")
    file = tmp_path / "ct.raw"
    file.write_bytes(b"first")
    status = file.stat()
    first = cache.hash_file(file)
    file.write_bytes(b"other")  # the same size, and the same time as after a coarse clock tick
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.hash_file(file) != first


def test_does_not_import_monai():
    program = "import sys, common.data.datasets.feature_cache; assert 'monai' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=os.getcwd())

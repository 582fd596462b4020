import json
import os

import pytest
import torch
from torch import nn

from common.data.datasets.feature_cache import FeatureCache, FeatureKey, hash_array
from common.data.datasets.features import FeatureDataset
from common.engines.frozen_features import FeatureWriter
from common.inferers.frozen_encoders import FrozenEncoder, ImageFeatures


class Steps(FrozenEncoder):
    """A map of each number, or with `size` a vector."""

    unit = "numbers"

    def __init__(self, size=None):
        self.size, self.batches = size, []

    def key(self, case, cache):
        lacks = case["number"] is None
        return None if lacks else FeatureKey("w", hash_array(torch.tensor(case["number"])), {"size": self.size})

    def encode(self, cases):
        self.batches.append([case["number"] for case in cases])
        shape = (3, 4) if self.size is None else (self.size,)
        return [{"feature": torch.full(shape, float(case["number"]))} for case in cases]

    def absent(self):
        return {"feature": torch.zeros(self.size)}

    def columns(self, entry):
        return {"first": entry["feature"].flatten()[:1]}


def numbered(*numbers):
    return [{"case": f"c{i}", "number": number} for i, number in enumerate(numbers)]


def write(tmp_path, encoder, cases, **kwargs):
    cases = cases if isinstance(cases, dict) else {"train": cases}
    return FeatureWriter({"steps": encoder}, cases, ["case"], tmp_path / "cache", tmp_path / "run", **kwargs)


def test_batches_that_the_cache_lacks_are_encoded(tmp_path):
    encoder = Steps(2)
    metrics = write(tmp_path, encoder, {"train": numbered(5, 6, None, 5, 7), "val": numbered(6, 8)}, batch_size=2).run()
    assert encoder.batches == [[5, 6], [5, 7], [6, 8]]
    assert (metrics["cases"], metrics["numbers_encoded"], metrics["misses"], metrics["hits"]) == (7, 6, 4, 2)
    data = FeatureDataset(tmp_path / "run" / "features", "train")
    assert data.vectors["steps"].tolist() == [[5, 5], [6, 6], [0, 0], [5, 5], [7, 7]]
    assert FeatureDataset(tmp_path / "run" / "features", "val")[1]["first"] == 8
    history = json.loads((tmp_path / "run" / "features" / "history.json").read_text())
    assert history["stage"] == "features" and history["iterations"] == history["validations"] == []
    assert history["metrics"] == metrics and "6 numbers encoded" in history["notes"][0]


def test_after_an_interruption_only_the_rest_is_encoded(tmp_path):
    class Killed(Steps):
        def encode(self, cases):
            if cases[0]["number"] == 3:
                raise KeyboardInterrupt
            return super().encode(cases)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, Killed(), numbered(1, 2, 3, 4)).run()
    assert not list((tmp_path / "run" / "features").glob("*"))
    encoder = Steps()
    metrics = write(tmp_path, encoder, numbered(1, 2, 3, 4)).run()
    assert encoder.batches == [[3], [4]] and metrics["hits"] == metrics["misses"] == 2


def test_an_interruption_within_a_batch_changes_nothing(tmp_path, monkeypatch):
    """A bug: what was left was put into other batches, whose last digits differ with their size."""

    class OfItsBatch(Steps):
        def encode(self, cases):
            return [{"feature": entry["feature"] + len(cases) / 10} for entry in super().encode(cases)]

    cases = numbered(1, 2, 3, 4, 5)
    write(tmp_path / "whole", OfItsBatch(2), cases, batch_size=2).run()
    compute, calls = FeatureCache.get_or_compute, []

    def killed(self, key, fn):
        calls.append(key)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compute(self, key, fn)

    monkeypatch.setattr(FeatureCache, "get_or_compute", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", OfItsBatch(2), cases, batch_size=2).run()
    monkeypatch.undo()
    write(tmp_path / "killed", OfItsBatch(2), cases, batch_size=2).run()
    found = [FeatureDataset(tmp_path / name / "run" / "features", "train").vectors for name in ("whole", "killed")]
    assert torch.equal(found[0]["steps"], found[1]["steps"])


def test_the_scale_factor_is_that_of_the_training_split(tmp_path):
    cases = {"val": numbered(100, 200), "train": numbered(1, 2, 5)}
    metrics = write(tmp_path, Steps(), cases, scaled="steps").run()
    spread = torch.tensor([1.0, 2.0, 5.0]).repeat_interleave(12).std().item()
    assert metrics["scale_factor"] == pytest.approx(1 / spread)
    for split in cases:
        assert FeatureDataset(tmp_path / "run" / "features", split).scale_factor == metrics["scale_factor"]
    with pytest.raises(ValueError, match="standard deviation 0.0, expected > 0"):
        write(tmp_path, Steps(), numbered(1, 1), scaled="steps").run()


def test_progress_bar_and_folder(tmp_path, capsys):
    write(tmp_path, Steps(), numbered(1, 2), stage="tokens").run()
    assert "tokens train: 100%" in capsys.readouterr().err
    assert len(FeatureDataset(tmp_path / "run" / "tokens")) == 2


def test_a_map_that_a_case_lacks_is_refused(tmp_path):
    class Strict(Steps):
        absent = FrozenEncoder.absent

    with pytest.raises(NotImplementedError, match="Strict needs its input of every case"):
        write(tmp_path, Strict(), numbered(1, None)).run()


# ---- token maps of X-rays -------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """(B, 1, H, W) to 16 tokens of 32 numbers, as a vision transformer gives them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, 32, 4, 4)

    def definition(self):
        return {"patch": 4}

    def forward(self, image):
        return self.patches(image).flatten(2).mT


@torch.no_grad()
def test_token_maps_in_half_precision_are_read_one_by_one(tmp_path):
    """What a report writer trains on; nothing but the configuration is new."""
    images, network = torch.rand(6, 1, 16, 16), Tokens()
    for i, image in enumerate(images):
        torch.save(image, tmp_path / f"{i}.pt")
    cases = [{"case": f"c{i}", "image": str(tmp_path / f"{i}.pt"), "report": f"Report {i}."} for i in range(6)]
    encoder = ImageFeatures(
        network, lambda x, network: network(x), lambda item: {"image": torch.load(item["image"])}, {}, dtype="float16"
    )
    writer = FeatureWriter(
        {"tokens": encoder}, {"train": cases}, ["case", "report"], tmp_path / "cache", tmp_path, batch_size=4,
    )  # fmt: skip
    assert writer.run()["images_encoded"] == 6
    data = FeatureDataset(tmp_path / "features", "train", features=["tokens"])
    opened = []
    read, data.cache.get = data.cache.get, lambda digest: opened.append(digest) or read(digest)
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=3)))
    assert len(opened) == 3  # those of the batch, no others
    assert batch["tokens"].dtype == torch.float16 and batch["report"] == ["Report 0.", "Report 1.", "Report 2."]
    torch.testing.assert_close(batch["tokens"].float(), network(images[:3]), atol=1e-3, rtol=1e-3)
    full = ImageFeatures(network, encoder.inferer, encoder.read, {})  # full precision is another entry
    assert full.key(cases[0], data.cache) != encoder.key(cases[0], data.cache)


def resident():
    """Bytes of this process's memory that are no pages of a file."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux counts pages there")
@pytest.mark.parametrize("shape", [(400_000,), (4, 100_000)])
def test_a_data_set_is_never_in_memory(tmp_path, shape):
    class Large(Steps):
        def encode(self, cases):
            return [{"feature": torch.full(shape, float(case["number"]))} for case in cases]

        def columns(self, entry):
            return {}

    cases = numbered(*range(60))  # 96 MB
    write(tmp_path, Large(0), cases).run()
    data = FeatureDataset(tmp_path / "run" / "features", "train")
    data[0]
    before = resident()
    assert all(float(data[i]["steps"].sum()) == i * 400_000 for i in range(60))
    assert resident() - before < 20_000_000

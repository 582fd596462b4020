from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from common.transforms.xray_io import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    NormaliseXrayd,
    RandXrayd,
    ReadXrayd,
    fit_square,
    xray_tensor,
)

REAL = Path(__file__).parents[3] / "shared" / "data" / "cxr"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """An upright image with a bright spot on its upper left, as 8-bit PNG, 16-bit PNG and JPEG."""
    rows, columns = np.mgrid[:300, :200]
    image = 0.2 + 0.3 * rows / 300 + 0.5 * np.exp(-((rows - 60) ** 2 + (columns - 40) ** 2) / 800)
    paths = {name: tmp_path / name for name in ("a.png", "b.png", "c.jpg")}
    Image.fromarray((image * 255).astype(np.uint8)).save(paths["a.png"])
    Image.fromarray((image * 65535).astype(np.uint16)).save(paths["b.png"])
    Image.fromarray((image * 255).astype(np.uint8)).save(paths["c.jpg"], quality=97)
    return paths


def test_transforms_and_the_straight_way_agree(files: dict[str, Path]) -> None:
    for path in files.values():
        out = Compose([ReadXrayd("image", size=112), NormaliseXrayd("image")])({"image": str(path)})["image"]
        assert isinstance(out, MetaTensor) and out.shape == (3, 112, 112) and out.dtype == torch.float32
        straight = xray_tensor(path, 112)
        assert straight.shape == out.shape
        torch.testing.assert_close(out.as_tensor(), straight, atol=1e-5, rtol=0)
        assert out.meta["filename_or_obj"] == str(path) and list(out.meta["spatial_shape"]) == [300, 200]


def test_pixels_are_those_of_pillow(files: dict[str, Path]) -> None:
    image = Image.open(files["a.png"]).resize((75, 112), Image.Resampling.BICUBIC)
    expected = np.zeros((112, 112))
    expected[:, 18:93] = np.asarray(image) / 255
    grey = (
        xray_tensor(files["a.png"], 112) * torch.tensor(CLIP_STD)[:, None, None]
        + torch.tensor(CLIP_MEAN)[:, None, None]
    )
    for channel in grey:
        np.testing.assert_allclose(channel.numpy(), expected, atol=1.01 / 255)
    deep = xray_tensor(files["b.png"], 112, (0, 0, 0), (1, 1, 1))
    np.testing.assert_allclose(deep[0].numpy(), expected, atol=1.5 / 255)


def original_pixels(path: Path, size: int) -> np.ndarray:
    """As LLaVA's own code: Pillow puts the image on a square of the mean colour, CLIP's processor does the rest."""
    image = Image.open(path).convert("RGB")
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    longer = max(image.size)
    square = Image.new("RGB", (longer, longer), tuple(int(m * 255) for m in processor.image_mean))
    square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
    return np.asarray(processor(square)["pixel_values"][0])


@pytest.mark.parametrize("shape", [(300, 200), (201, 350), (90, 90), (1500, 1201)])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_mean_colour_as_the_original(tmp_path: Path, shape: tuple[int, int], ending: str) -> None:
    rows, columns = np.mgrid[: shape[0], : shape[1]] / max(shape)
    image = 60 + 80 * rows + 60 * np.sin(40 * columns) * np.cos(25 * rows)
    image += np.random.default_rng(0).normal(0, 5, shape)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, **({"quality": 95} if ending == "jpg" else {}))
    expected, straight = original_pixels(path, 112), xray_tensor(path, 112, pad="mean")
    difference = np.abs(straight.numpy() - expected) * np.array(CLIP_STD)[:, None, None]
    assert difference.mean() < 0.05 / 255 and difference.max() < 3 / 255
    black = np.abs(xray_tensor(path, 112).numpy() - expected) * np.array(CLIP_STD)[:, None, None]
    assert black.mean() > 0.05 or shape[0] == shape[1]
    read = ReadXrayd("image", 112, pad="mean")({"image": path})
    assert read["image"].shape == (3, 112, 112) and 0 <= read["image"].min() and read["image"].max() <= 1
    torch.testing.assert_close(NormaliseXrayd("image")(read)["image"].as_tensor(), straight, atol=1e-5, rtol=0)


def test_mean_colour_around_16_bits(files: dict[str, Path]) -> None:
    deep, flat = (xray_tensor(files[name], 112, pad="mean") for name in ("b.png", "a.png"))
    torch.testing.assert_close(deep, flat, atol=1.5 / 255 / min(CLIP_STD), rtol=0)
    assert (deep[:, 50, 0] * torch.tensor(CLIP_STD) + torch.tensor(CLIP_MEAN)).mul(255).tolist() == pytest.approx(
        [122, 116, 104], abs=1e-3
    )


@pytest.mark.skipif(not REAL.is_dir(), reason="the real X-rays of ../shared/data are not there")
def test_mean_colour_around_real_images() -> None:
    paths = [p for p in sorted(REAL.rglob("*")) if p.suffix in (".png", ".jpg") and Image.open(p).mode == "L"][::12]
    assert len(paths) > 5
    for path in paths:
        difference = np.abs(xray_tensor(path, 336, pad="mean").numpy() - original_pixels(path, 336))
        assert (difference * np.array(CLIP_STD)[:, None, None]).mean() < 0.05 / 255, path


def test_fit_square() -> None:
    image = np.full((50, 100), 200, dtype=np.uint8)
    square = fit_square(image, 60)
    assert square.shape == (60, 60) and square.dtype == np.uint8
    assert (square[:15] == 0).all() and (square[45:] == 0).all() and (square[15:45] == 200).all()
    edge = np.zeros((40, 40), dtype=np.float32)
    edge[:, 20:] = 1
    assert 0 <= fit_square(edge, 90).min() and fit_square(edge, 90).max() <= 1  # bicubic would overshoot
    np.testing.assert_array_equal(fit_square(edge, 40), edge)
    with pytest.raises(ValueError, match="size is 0"):
        fit_square(edge, 0)


def test_read_keeps_size_case_and_missing_images(files: dict[str, Path]) -> None:
    read = ReadXrayd("image")
    out = read({"image": files["b.png"], "case": "p1"})["image"]
    assert out.shape == (1, 300, 200) and out.meta["case"] == "p1" and out.meta["bits"] == 16
    assert np.isnan(out.meta["pixel_spacing"]).all() and out.meta["photometric"] == "MONOCHROME2"
    assert read({"image": files["a.png"]})["image"].meta["case"] == "a"
    nothing = Compose([read, RandXrayd("image"), NormaliseXrayd("image")])({"image": None, "case": "p2"})
    assert nothing["image"] is None


def test_normalising_twice_is_refused(files: dict[str, Path]) -> None:
    normalise = NormaliseXrayd("image", IMAGENET_MEAN)
    once = normalise(ReadXrayd("image", 64)({"image": files["a.png"]}))
    with pytest.raises(ValueError, match=r"image is \(3, 64, 64\) .* expected \(1, H, W\) in \[0, 1\]"):
        normalise(once)
    with pytest.raises(ValueError, match="values from 0 to 255"):
        normalise({"image": torch.arange(0, 256).float().reshape(1, 16, 16)})


def test_random_changes_depend_on_seed_epoch_and_case_alone(files: dict[str, Path]) -> None:
    item = ReadXrayd("image", 64)({"image": files["a.png"], "case": "p1"})

    def changed(seed: int, epoch: int, case: str | int) -> torch.Tensor:
        change = RandXrayd("image", seed=seed)
        change.set_epoch(epoch)
        change(item | {"case": "another"})  # what came before does not matter
        return change(item | {"case": case})["image"]

    first = changed(0, 1, "p1")
    assert torch.equal(first, changed(0, 1, "p1"))
    others = [changed(1, 1, "p1"), changed(0, 2, "p1"), changed(0, 1, "p2"), changed(0, 1, 7)]
    assert all(not torch.equal(first, other) for other in others)
    assert isinstance(first, MetaTensor) and first.meta["case"] == "p1"


def test_random_changes_never_flip(files: dict[str, Path]) -> None:
    item = ReadXrayd("image", 64)({"image": files["a.png"], "case": 0})
    change = RandXrayd("image", prob=1.0)
    for case in range(200):
        image = change(item | {"case": case})["image"][0]
        assert 0 <= image.min() and image.max() <= 1 and image.shape == (64, 64)
        inner = image[:40, 12:52]  # the spot: upper left of the middle
        row, column = divmod(int(torch.nn.functional.avg_pool2d(inner[None], 5, 1, 2).argmax()), 40)
        assert row < 25 and column < 20, case


def test_geometry_moves_what_it_says() -> None:
    image = torch.zeros(1, 101, 101)
    image[0, 50, 50] = 1
    change = RandXrayd("image", rotate=0, shift=0.1, zoom=0, brightness=0, contrast=0, noise=0, prob=1.0)
    moved = [change({"image": image, "case": i})["image"][0] for i in range(50)]
    places = np.array([divmod(int(m.argmax()), 101) for m in moved]) - 50
    assert np.abs(places).max() <= 11 and np.abs(places).max(axis=0).min() > 5
    still = RandXrayd("image", prob=0.0)({"image": image, "case": 1})["image"]
    assert torch.equal(still, image)


@pytest.mark.parametrize("shape", [(81, 161), (161, 81)])
def test_turning_keeps_distances_of_an_image_that_is_no_square(shape: tuple[int, int]) -> None:
    """Sides are counted from -1 to 1, each its own: without the aspect a turn would shear."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] - np.array(shape)[:, None, None] // 2
    change = RandXrayd("image", rotate=45, shift=0, zoom=0, brightness=0, contrast=0, noise=0, prob=1.0)
    turned = []
    for case in range(12):
        angles = []
        for down, right in ((0, 30), (30, 0)):
            spot = np.exp(-((rows - down) ** 2 + (columns - right) ** 2) / 18).astype(np.float32)
            image = change({"image": torch.from_numpy(spot)[None], "case": case})["image"][0].numpy()
            row, column = (float((place * image).sum() / image.sum()) for place in (rows, columns))
            assert np.hypot(row, column) == pytest.approx(30, abs=0.3)
            angles.append(np.arctan2(row, column) - np.arctan2(down, right))
        assert angles[0] == pytest.approx(angles[1], abs=0.02)  # both by the same angle
        turned.append(abs(angles[0]))
    assert max(turned) > 0.4


def test_arguments_are_checked() -> None:
    for wrong in ({"rotate": 90}, {"zoom": 1.0}, {"noise": -1}, {"prob": 2}):
        with pytest.raises(ValueError, match="expected 0 or more"):
            RandXrayd("image", **wrong)
    with pytest.raises(ValueError, match="std positive"):
        NormaliseXrayd("image", std=(1, 1, 0))
    with pytest.raises(ValueError, match="size is -1"):
        ReadXrayd("image", -1)
    with pytest.raises(ValueError, match="pad is 'white', expected one of black, mean"):
        ReadXrayd("image", 64, pad="white")
    with pytest.raises(ValueError, match="expected a size"):
        ReadXrayd("image", pad="mean")

"""Reading and writing CT in a bundle: the one place where (x, y, z) becomes (D, H, W) and back."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SaveImaged
from monai.utils import convert_to_tensor

from common.data.ct.reader import read_ct
from common.data.ct.volume import CTVolume, axial_axes, write_nifti
from common.io.bad_input import BadInput
from common.transforms.slabs import round_keeping_slab_means

DTYPES = ("float32", "int16")


def to_axial(volume: CTVolume) -> tuple[torch.Tensor, np.ndarray]:
    """A CT as (D, H, W) float32 HU, slices first (`axial_axes`), and its affine; axes are permuted, never flipped."""
    axes = axial_axes(volume.affine)
    hu = torch.from_numpy(np.ascontiguousarray(volume.hu.transpose(axes), dtype=np.float32))
    return hu, volume.affine[:, [*axes, 3]]


class ReadCTd(MapTransform):
    """Replace a path that `read_ct` takes by its CT: MetaTensor (1, D, H, W), float32 HU.

    An entry ``case`` beside it names the case; otherwise the file or folder does.

    The meta data hold ``affine`` (of the d, h, w indices), ``case``, ``filename_or_obj`` and ``axial_axes`` (where
    D, H, W stood in the file). Raises BadInput for anything that is not a sound CT volume.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the CT of every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            volume = read_ct(out[key])
            hu, affine = to_axial(volume)
            meta = {
                "case": out.get("case", volume.case),
                "filename_or_obj": str(volume.source),
                "axial_axes": axial_axes(volume.affine),
                "spatial_shape": np.asarray(hu.shape),
                "original_affine": affine,
            }
            out[key] = MetaTensor(hu[None], affine=torch.from_numpy(affine), meta=meta)
        return out


class SaveCTd(SaveImaged):
    """Write a (1 or 2, D, H, W) MetaTensor in HU as ``CASE.nii.gz`` in the axis order of the input ("image").

    A second channel is a standard deviation in HU and becomes ``CASE_uncertainty.nii.gz``.

    Args:
        keys: what to write.
        output_dir: created if missing.
        dtype: "float32", or "int16" rounded so that slab means still hold.

    ``written`` lists the files. Raises BadInput rather than write over the input. It is a `SaveImaged` for programs
    that leave out what writes files (MONAI Label).
    """

    def __init__(self, keys: KeysCollection, output_dir: str, dtype: str = "float32") -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
        self.output_dir, self.dtype = Path(output_dir), dtype
        self.written: list[str] = []
        self._case_of: dict[Path, str] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write every key; ``data[key + "_path"]`` names the file."""
        out = dict(data)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for key in self.key_iterator(out):
            prediction, meta = out[key], out["image"].meta
            path = self.output_dir / f"{meta['case']}.nii.gz"
            if path.resolve() == Path(meta["filename_or_obj"]).resolve():
                raise BadInput(path, "is the input itself, expected another output_dir")
            volume = convert_to_tensor(prediction)[0].cpu()
            hu = round_keeping_slab_means(volume) if self.dtype == "int16" else volume
            self._write(path, hu, prediction, meta)
            if len(prediction) > 1:
                self._write(path.with_name(f"{meta['case']}_uncertainty.nii.gz"), prediction[1], prediction, meta)
            out[f"{key}_path"] = str(path)
        return out

    def _write(self, path: Path, volume: torch.Tensor, prediction: MetaTensor, meta: Mapping) -> None:
        if self._case_of.setdefault(path, meta["case"]) != meta["case"]:
            raise BadInput(meta["filename_or_obj"], f"would be {path}, which is of the case {self._case_of[path]!r}")
        back, affine = _file_axes(prediction, meta)
        write_nifti(path, convert_to_tensor(volume).cpu().numpy().transpose(back), affine)
        self.written.append(str(path))


class FileAxesd(MapTransform):
    """Bring a (C, D, H, W) MetaTensor back to the axis order of the input file, for programs that write it themselves.

    ``axial_axes`` of the entry "image" say where D, H, W stood. Its ``spatial_shape`` and ``original_affine`` then
    describe the finer grid; MONAI Label resamples to what they say.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Permute every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            back, affine = _file_axes(out[key], out["image"].meta)
            volume = convert_to_tensor(out[key]).permute(0, *(axis + 1 for axis in back.tolist()))
            out[key] = MetaTensor(volume.contiguous(), affine=torch.from_numpy(affine))
            grid = {"spatial_shape": np.asarray(volume.shape[1:]), "original_affine": affine}
            out["image"].meta.update(grid)
        return out


def _file_axes(prediction: MetaTensor, meta: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Where the file's axes are in (D, H, W), the inverse of `to_axial`, and the affine of the file's axes."""
    back = np.argsort(meta["axial_axes"])
    return back, np.asarray(prediction.affine.cpu(), dtype=np.float64)[:, [*back, 3]]

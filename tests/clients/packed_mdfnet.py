"""A packed `mdfnet_cxr` with tiny networks, and a prepared folder of small X-rays, notes and values for it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.apps.packaging.pack import pack_bundle
from common.data.cxr.cases import read_cxr_cases
from common.data.cxr.study_files import fitted_scaler, fitted_tokenizer
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.data.modalities import MODALITIES
from common.handlers.model_parts import ModelPartSaver
from common.io.output_folder import csv_text
from common.networks.clinical_encoder import ClinicalEncoder
from common.networks.mdfnet import MDFNet
from common.networks.modality_fusion import FusionHead
from common.networks.text_encoder import TextEncoder
from common.networks.vision_encoder import VisionEncoder
from common.text.cxr_labeller import CHEXPERT_LABELS

BUNDLE = Path(__file__).parents[2] / "bundles" / "mdfnet_cxr"
SIZE = 28  # pixels
CASES = {"train": 16, "val": 8, "test": 8}
VISION = {
    "model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14,
}  # fmt: skip
TEXT = {
    "model_type": "modernbert", "vocab_size": 200, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 64, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3,
    "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
SETTINGS = json.dumps(
    {"num_workers": 0, "image_size": SIZE, "max_tokens": 64, "accumulation_steps": 1, "precision": "float32"}
)
NOTES = ("Cough and fever since Monday.", "Fell from a ladder, chest pain.", "")


def write_xray(path: Path, seed: int = 0) -> Path:
    """A grey PNG of 40 x 32 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 32), dtype=np.uint8)).save(path)
    return path


def write_prepared(folder: Path) -> Path:
    """What `prepare mimic_cxr` writes, one image per patient; every label has both classes in every split."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows, notes, values = np.random.default_rng(0), [], [], []
    for split, n in CASES.items():
        for i in range(n):
            case = f"{split}{i:02d}"
            image = write_xray(folder / "files" / f"{case}.png", seed=len(rows))
            labels = {name: float((i + k) % 2) for k, name in enumerate(CHEXPERT_LABELS)}
            rows.append(
                {"case": case, "patient": case, "split": split, "image": str(image), "study": case, "view": "PA"}
                | labels
            )
            notes.append({"study": case, "note": NOTES[i % len(NOTES)]})
            values.append({"study": case, "age": int(rng.integers(20, 90)), "o2sat": int(rng.integers(85, 100))})
    (folder / "manifest.csv").write_text(csv_text(list(rows[0]), rows))
    (folder / "notes.csv").write_text(csv_text(["study", "note"], notes))
    (folder / "clinical.csv").write_text(csv_text(["study", *CLINICAL_COLUMNS], values))
    return folder


def write_weights(folder: Path, data: Path, modalities: Sequence[str] = MODALITIES) -> Path:
    """What a recipe leaves in `models`: model.pt, network.json, and what belongs to the modalities."""
    cases = read_cxr_cases(data, "train")
    torch.manual_seed(0)
    parts = {}
    if "vision" in modalities:
        parts["vision"] = VisionEncoder(config=VISION, embedding=16, image_size=SIZE)
    if "text" in modalities:
        fitted_tokenizer(cases, str(folder), max_tokens=64, vocab_size=TEXT["vocab_size"])
        parts["text"] = TextEncoder(config=TEXT)
    if "clinical" in modalities:
        fitted_scaler(cases, str(folder))
        parts["clinical"] = ClinicalEncoder(hidden=(8, 8))
    sizes = {name: part.features for name, part in parts.items()}
    network = MDFNet(**parts, fusion=FusionHead(modalities, sizes=sizes, width=16, heads=2, hidden=(16, 8)))
    ModelPartSaver(str(folder), network, labels=CHEXPERT_LABELS)()
    return folder


def make_packed(folder: Path, data: Path, modalities: Sequence[str] = MODALITIES) -> Path:
    """Pack the bundle below a folder, with weights that fit the prepared folder."""
    weights = write_weights(folder / "weights", data, modalities)
    return Path(pack_bundle(BUNDLE, folder / "packed", weights)["folder"])

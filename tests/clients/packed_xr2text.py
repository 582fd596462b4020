"""A packed `xr2text` with tiny networks of random weights."""

from pathlib import Path

import torch

from common.apps.packaging.pack import pack_bundle
from common.handlers.model_parts import ModelPartSaver
from common.llm.load import load_language_model
from common.llm.report_model import ReportModel
from common.llm.tokens import fitted_tokenizer
from common.networks.haqt_arr import HAQTARR
from common.networks.vision_encoder import VisionEncoder
from common.text.cxr_labeller import CHEXPERT_LABELS
from tests.llm.tiny_bart import SENTENCES, SIZES

BUNDLE = Path(__file__).parents[2] / "bundles" / "xr2text"
VISION = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def write_weights(folder: Path) -> Path:
    """What a recipe leaves in `models`."""
    torch.manual_seed(0)
    fitted_tokenizer(str(folder), SENTENCES * 20, vocab_size=SIZES["vocab_size"])
    vision = VisionEncoder(config=VISION, embedding=None, image_size=32)
    decoder = load_language_model(config=SIZES | {"max_position_embeddings": 128})
    network = ReportModel(HAQTARR(16, 16, width=16, heads=2), decoder, vision)
    settings = {"image_size": 32, "views": ["PA", "AP"], "target": "findings"}
    ModelPartSaver(str(folder), network, labels=CHEXPERT_LABELS, settings=settings)()
    return folder


def make_packed(folder: Path) -> Path:
    """The packed bundle, its weights in FOLDER/weights."""
    return Path(pack_bundle(BUNDLE, folder / "packed", write_weights(folder / "weights"))["folder"])

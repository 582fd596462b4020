"""MDF-Net with encoders that a test trains in no time."""

import torch

from common.data.modalities import MODALITIES
from common.networks.clinical_encoder import ClinicalEncoder
from common.networks.mdfnet import MDFNet
from common.networks.modality_fusion import FusionHead
from common.networks.text_encoder import TextEncoder
from common.networks.vision_encoder import VisionEncoder
from tests.data.cxr.tiny_study import LABELS

VISION = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8,
          "intermediate_size": 16}  # fmt: skip
TEXT = {"model_type": "modernbert", "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 90, "pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2,
        "sep_token_id": 3, "eos_token_id": 3}  # fmt: skip


def make_network(modalities=MODALITIES, seed=0):
    torch.manual_seed(seed)
    parts = {
        "vision": lambda: VisionEncoder(config=VISION, image_size=16, embedding=10),
        "text": lambda: TextEncoder(config=TEXT),
        "clinical": lambda: ClinicalEncoder(45, (8,)),
    }
    own = {name: parts[name]() for name in modalities}
    sizes = {name: encoder.features for name, encoder in own.items()}
    return MDFNet(**own, fusion=FusionHead(modalities, len(LABELS), sizes, width=8, heads=2, hidden=(8, 8)))

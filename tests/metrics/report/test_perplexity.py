import math

import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError

from common.metrics.report.perplexity import Perplexity, perplexity


def test_a_uniform_model_has_the_size_of_its_vocabulary():
    assert perplexity(7 * math.log(50), 7) == pytest.approx(50)
    assert perplexity(0.0, 3) == 1
    assert perplexity(1e6, 1) == math.inf
    assert math.isnan(perplexity(math.nan, 1))
    with pytest.raises(ValueError, match="at least one counted token"):
        perplexity(1.0, 0)


def test_over_an_epoch_it_is_that_of_the_sums():
    logits = torch.randn(12, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(9, (12,), generator=torch.Generator().manual_seed(1))
    parts = [(0, 5), (5, 6), (6, 12)]
    engine = Engine(
        lambda _, part: (
            torch.nn.functional.cross_entropy(logits[slice(*part)], targets[slice(*part)], reduction="sum"),
            part[1] - part[0],
        )
    )
    Perplexity().attach(engine, "perplexity")
    expected = math.exp(torch.nn.functional.cross_entropy(logits.double(), targets).item())
    assert engine.run(parts).metrics["perplexity"] == pytest.approx(expected, rel=1e-6)
    assert engine.run(parts).metrics["perplexity"] == pytest.approx(expected, rel=1e-6)


def test_nothing_is_no_perplexity():
    with pytest.raises(NotComputableError):
        Perplexity().compute()

import pytest
import torch

from common.llm.load import load_language_model
from common.llm.report_model import FindingTokens, ReportModel
from common.llm.tokens import IGNORED
from common.networks.haqt_arr import HAQTARR
from common.networks.vision_encoder import VisionEncoder
from common.networks.weights import count_parameters
from tests.llm.tiny_bart import SIZES

SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2, "patch_size": 2}
LABELS = torch.tensor([[0, 9, 8, 2], [0, 7, 2, IGNORED]])


def model(vision=False, **changes):
    torch.manual_seed(0)
    encoder = VisionEncoder(config=SWIN, image_size=24, embedding=None) if vision else None
    queries = HAQTARR(16, 16, width=16, heads=2, dropout=0.0)
    decoder = load_language_model(config=SIZES | {"dropout": 0.0})
    return ReportModel(queries, decoder, encoder, **changes)


def tokens(seed=1):
    return torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(seed))


def test_published_size():
    swin = {"model_type": "swin", "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
    with torch.device("meta"):
        vision = VisionEncoder(config=swin | {"window_size": 12}, image_size=384, embedding=None)
        whole, without = (
            count_parameters(ReportModel(HAQTARR(), load_language_model(config={"model_type": "bart"}, **text), vision))
            for text in ({"text_encoder": True}, {})
        )
    assert 543e6 < whole < 554.5e6 and 391e6 < without < 402e6


def test_shapes_from_tokens_and_from_an_image():
    for network, given in (
        (model(), {"tokens": tokens().half(), "grid": (3, 4)}),
        (model(vision=True), {"image": torch.randn(2, 3, 24, 24)}),
    ):
        found = network(LABELS, **given)
        assert found.logits.shape == (2, 4, SIZES["vocab_size"]) and found.findings.shape == (2, 14)
        assert network.states(**given)[0].shape == (2, 8 + 7 * 4 + 14, 16)


def test_the_vision_part_gives_what_its_tokens_give():
    network = model(vision=True).eval()
    image = torch.randn(2, 3, 24, 24)
    _, seen, grid = network.vision.tokens(image)
    torch.testing.assert_close(network(LABELS, image).logits, network(LABELS, tokens=seen, grid=grid).logits)


def test_findings_reach_the_decoder_and_not_the_other_way():
    network = model()
    found = network(LABELS, tokens=tokens(), grid=(3, 4))
    found.logits.square().sum().backward()
    assert all(p.grad is None for p in network.findings.head.parameters())
    assert network.findings.present.grad.abs().max() > 0 and network.queries.queries.grad.abs().max() > 0
    before = found.logits
    with torch.no_grad():
        network.findings.head[-1].bias += 10  # all present
    assert (network(LABELS, tokens=tokens(), grid=(3, 4)).logits - before).abs().max() > 1e-5
    without = model(finding_tokens=False)
    assert without.states(tokens=tokens(), grid=(3, 4))[0].shape[1] == 8 + 7 * 4


def test_a_findings_loss_moves_its_head():
    network = model()
    network(LABELS, tokens=tokens(), grid=(3, 4)).findings.sum().backward()
    assert all(p.grad is not None for p in network.findings.head.parameters())
    assert all(p.grad is None for p in network.decoder.parameters())


def test_finding_tokens_lie_between_absent_and_present():
    part = FindingTokens(4, 6, findings=3)
    torch.testing.assert_close(part.tokens(torch.zeros(1, 3))[0], part.absent)
    torch.testing.assert_close(part.tokens(torch.ones(1, 3))[0], part.present)
    torch.testing.assert_close(part.tokens(torch.full((1, 3), 0.5))[0], (part.absent + part.present) / 2)


def test_further_states_are_read():
    network = model().eval()
    more = torch.randn(2, 5, 16)
    plain = network(LABELS, tokens=tokens(), grid=(3, 4)).logits
    assert (network(LABELS, tokens=tokens(), grid=(3, 4), more=more).logits - plain).abs().max() > 1e-5


def test_padding_of_labels_changes_nothing():
    network = model().eval()
    short = network(LABELS[1:, :3], tokens=tokens()[1:], grid=(3, 4)).logits
    torch.testing.assert_close(network(LABELS, tokens=tokens(), grid=(3, 4)).logits[1:, :3], short)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="the queries give 8 numbers, expected the decoder's 16"):
        ReportModel(HAQTARR(16, 8, width=16, heads=2), load_language_model(config=SIZES))
    with pytest.raises(ValueError, match="neither tokens nor an image"):
        model().states(image=torch.randn(1, 3, 8, 8))

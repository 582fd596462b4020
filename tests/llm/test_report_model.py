import json

import pytest
import torch

from common.llm.load import load_language_model
from common.llm.report_model import FindingTokens, ReportModel
from common.llm.tokens import IGNORED
from common.networks.definitions import read_definitions
from common.networks.haqt_arr import HAQTARR
from common.networks.vision_encoder import VisionEncoder
from common.networks.weights import count_parameters, write_state
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
    return torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(seed))


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
        (model(), tokens().half()),
        (model(vision=True), torch.randn(2, 3, 24, 24)),
    ):
        found = network(given, LABELS)
        assert found.logits.shape == (2, 4, SIZES["vocab_size"]) and found.findings.shape == (2, 14)
        assert network.states(given).states.shape == (2, 8 + 7 * 4 + 14, 16)


def test_the_vision_part_gives_what_its_tokens_give():
    network = model(vision=True).eval()
    image = torch.randn(2, 3, 24, 24)
    _, seen, _ = network.vision.tokens(image)
    torch.testing.assert_close(network(image, LABELS).logits, network(seen, LABELS).logits)


def test_findings_reach_the_decoder_and_not_the_other_way():
    network = model()
    found = network(tokens(), LABELS)
    found.logits.square().sum().backward()
    assert all(p.grad is None for p in network.findings.head.parameters())
    assert network.findings.present.grad.abs().max() > 0 and network.queries.queries.grad.abs().max() > 0
    before = found.logits
    with torch.no_grad():
        network.findings.head[-1].bias += 10  # all present
    assert (network(tokens(), LABELS).logits - before).abs().max() > 1e-5
    without = model(finding_tokens=False)
    assert without.states(tokens()).states.shape[1] == 8 + 7 * 4


def test_a_findings_loss_moves_its_head():
    network = model()
    network(tokens(), LABELS).findings.sum().backward()
    assert all(p.grad is not None for p in network.findings.head.parameters())
    assert all(p.grad is None for p in network.decoder.parameters())


def test_finding_tokens_lie_between_absent_and_present():
    part = FindingTokens(4, 6, findings=3)
    torch.testing.assert_close(part.tokens(torch.zeros(1, 3))[0], part.absent)
    torch.testing.assert_close(part.tokens(torch.ones(1, 3))[0], part.present)
    torch.testing.assert_close(part.tokens(torch.full((1, 3), 0.5))[0], (part.absent + part.present) / 2)


CONTEXT = torch.tensor([[0, 5, 6, 7, 2], [0, 4, 2, IGNORED, IGNORED]])


def test_a_context_is_read_and_its_padding_is_not():
    network = model(context_tokens=8).eval()
    plain, told = (network(tokens(), LABELS, context).logits for context in (None, CONTEXT))
    assert ((told - plain).abs().amax((1, 2)) > 1e-5).all()
    torch.testing.assert_close(network(tokens()[1:], LABELS[1:], CONTEXT[1:, :3]).logits, told[1:])
    read = network.states(tokens(), CONTEXT)
    assert read.states.shape == (2, 8 + 7 * 4 + 14 + 5, 16) and read.mask.sum(1).tolist() == [55, 53]


def test_a_context_is_hidden_from_some_cases_in_training_alone():
    network = model(context_tokens=8).train()
    network.context.drop = 1.0
    assert network.states(tokens(), CONTEXT).mask.sum(1).tolist() == [51, 51]
    assert network.eval().states(tokens(), CONTEXT).mask.sum(1).tolist() == [55, 53]


def test_a_context_trains_what_reads_it():
    network = model(context_tokens=8)
    network(tokens(), LABELS, CONTEXT).logits.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.context.layer.parameters() if p.ndim > 1)
    assert {id(p) for p in network.context.parameters()} <= {id(p) for p in network.groups()["projection"]}
    with pytest.raises(ValueError, match="the model reads no context"):
        model()(tokens(), LABELS, CONTEXT)


def test_padding_of_labels_changes_nothing():
    network = model().eval()
    short = network(tokens()[1:], LABELS[1:, :3]).logits
    torch.testing.assert_close(network(tokens(), LABELS).logits[1:, :3], short)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="the queries give 8 numbers, expected the decoder's 16"):
        ReportModel(HAQTARR(16, 8, width=16, heads=2), load_language_model(config=SIZES))
    with pytest.raises(ValueError, match="there is no image encoder, expected the tokens"):
        model().states(torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"shape \(2, 12, 16\), expected images .* or findings"):
        model().states(torch.randn(2, 12, 16))


def test_a_text_without_an_image_is_written_from_its_findings():
    network = model()
    found = network(torch.rand(2, 14), LABELS)
    assert found.findings is None and found.anatomy is None
    found.logits.square().sum().backward()
    assert network.findings.absent.grad.abs().max() > 0 and network.queries.queries.grad is None


def test_definitions_build_the_same_network_and_load_its_weights(tmp_path):
    network = model(vision=True, finding_tokens=False)
    found = network.definitions(list(network.parts()))
    sections = {name: {} for name in ("vision", "queries", "decoder", "network")}
    for key, value in json.loads(json.dumps(found)).items():
        name, argument = key.split("#")
        sections[name.removesuffix("_def")][argument] = value
    parts = HAQTARR(**sections["queries"]), load_language_model(**sections["decoder"])
    again = ReportModel(*parts, VisionEncoder(**sections["vision"]), **sections["network"])
    write_state(tmp_path / "model.pt", network.state_dict())
    again.load(tmp_path / "model.pt")
    image = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(again(image, LABELS).logits, network.eval()(image, LABELS).logits)
    (tmp_path / "network.json").write_text(json.dumps(found))
    assert read_definitions(tmp_path / "network.json") == found


def test_each_trained_parameter_has_one_rate():
    network = model(vision=True)
    groups = network.groups()
    chosen = [id(p) for group in groups.values() for p in group]
    assert len(chosen) == len(set(chosen)) and set(chosen) == {id(p) for p in network.parameters() if p.requires_grad}
    assert model().groups()["encoder"] == []

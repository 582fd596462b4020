import pytest
import torch

from common.engines.answer_batch import PrepareAnswerBatch
from common.inferers.answer_inferer import AnswerInferer
from common.io.bad_input import BadInput
from common.llm.answer_batch import AnswerCollate
from common.llm.answer_model import AnswerModel
from common.llm.llava import load_llava
from common.losses.answer_loss import AnswerLoss
from common.networks.weights import replace_parts, write_state
from tests.llm.answer_cases import cases, small_tokenizer
from tests.llm.tiny_llava import TEXT, VISION


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def model(tokenizer, **options):
    torch.manual_seed(0)
    text = TEXT | {"model_type": "mistral", "max_position_embeddings": 2048, "vocab_size": len(tokenizer)}
    config = {"model_type": "llava", "vision_config": VISION | {"model_type": "clip_vision_model"}, "text_config": text}
    config |= {"image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    return AnswerModel(load_llava(config=config, precision="float32"), **({"r": 4, "dropout": 0.0} | options))


def batch(tokenizer, **options):
    return PrepareAnswerBatch()(AnswerCollate(tokenizer, 4, **options)(cases()))


def test_logits_stand_where_something_is_said(tokenizer):
    network = model(tokenizer).eval()
    inputs, target, _, given = batch(tokenizer)
    logits = network(inputs, **given)
    assert logits.shape == (len(target["said"]), len(tokenizer))
    from common.llm.llava import mm_outputs

    every = network.base(
        input_ids=given["ids"], attention_mask=given["mask"], mm_encoder_outputs=mm_outputs(network.base, inputs)
    ).logits
    torch.testing.assert_close(logits, every[:, :-1].flatten(0, 1)[given["places"]])


def test_tokens_equal_pixels_and_a_step_on_tokens_never_calls_the_tower(tokenizer):
    network = model(tokenizer).eval()
    images = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    _, target, _, given = batch(tokenizer)
    seen = network.tokens(images)[1]
    torch.testing.assert_close(network(images, **given), network(seen, **given))
    calls = []
    network.base.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    AnswerLoss(9.0)(network.train()(seen, **given), target).backward()
    assert not calls
    network(images, **given)
    assert calls == [1]


def test_what_a_step_moves_and_what_it_saves(tokenizer):
    network = model(tokenizer)
    inputs, target, _, given = batch(tokenizer)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    groups = network.groups()
    assert set(groups) == {"projector", "adapter"}
    optimizer = torch.optim.AdamW([{"params": params, "lr": 1e-2} for params in groups.values()])
    for _ in range(2):  # B of LoRA begins at zero
        optimizer.zero_grad()
        AnswerLoss(9.0)(network.train()(inputs, **given), target).backward()
        optimizer.step()
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or "multi_modal_projector" in name for name in moved)
    state = network.state_dict()
    assert sum(t.numel() for t in state.values()) == sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_weights_come_back_bit_by_bit_and_only_on_their_base(tokenizer, tmp_path):
    network = model(tokenizer)
    for tensor in network.state_dict().values():
        tensor.add_(torch.randn_like(tensor))
    write_state(tmp_path / "model.pt", replace_parts({}, {"network": network}))
    again = model(tokenizer).load(tmp_path / "model.pt")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())
    base = tmp_path / "base"
    network.base.save_pretrained(base)
    with pytest.raises(BadInput, match="was trained on the base 000000000000"):
        model(tokenizer).load(tmp_path / "model.pt", base_hash="0" * 64, base=str(base))
    with pytest.raises(ValueError, match="does not fit"):
        model(tokenizer, r=2).load(tmp_path / "model.pt")


def test_a_base_in_the_making_trains_its_language_model_alone(tokenizer):
    network = model(tokenizer, r=0)
    assert set(network.groups()) == {"language"}
    assert not any("vision_tower" in name or "projector" in name for name in network.state_dict())
    state = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    assert all((tensor == 0).all() for tensor in network.state_dict().values())


def test_accumulated_gradients_are_those_of_the_large_batch(tokenizer):
    def gradients(parts):
        network, collate = model(tokenizer), AnswerCollate(tokenizer, 4)
        for part in parts:
            items = [case | {"weight": 1.0 + i} for i, case in enumerate(cases())]
            inputs, target, _, given = PrepareAnswerBatch()(collate([items[i] for i in part]))
            (AnswerLoss(9.0)(network(inputs, **given), target) * len(part) / 3).backward()
        return [p.grad for p in network.parameters() if p.requires_grad and p.grad is not None]

    for one, several in zip(gradients([[0, 1, 2]]), gradients([[0], [1, 2]]), strict=True):
        torch.testing.assert_close(one, several)


def test_answers_do_not_depend_on_their_batch(tokenizer):
    network = model(tokenizer).eval()
    inferer = AnswerInferer(tokenizer, {"max_new_tokens": 8}, "float32", ask=AnswerCollate(tokenizer, 4))
    inputs, _, _, given = batch(tokenizer, prompts=True)
    found = inferer(inputs, network, **given)
    torch.testing.assert_close(found.logits, network(inputs, **given_without_prompts(given)))
    for i, case in enumerate(cases()):
        alone, _, _, asked = PrepareAnswerBatch()(AnswerCollate(tokenizer, 4, prompts=True)([case]))
        assert inferer(alone, network, **asked).texts == [found.texts[i]]
    assert inferer(inputs, network).texts[0] == found.texts[0], "asked for findings where nothing is asked"


def given_without_prompts(given):
    return {name: value for name, value in given.items() if "prompt" not in name}

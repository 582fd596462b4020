import pytest
import torch

from common.llm.decoding import Decoding, generate_texts
from common.llm.load import load_language_model
from common.llm.tokens import build_tokenizer, encode_targets
from tests.llm.tiny_bart import SENTENCES, SIZES


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A decoder that has learned to write sentence i for state i, its tokenizer, and the states."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(SENTENCES * 20, tmp_path_factory.mktemp("tokenizer"), 400)
    model = load_language_model(config=SIZES | {"vocab_size": 400, "dropout": 0.0})
    states = torch.randn(len(SENTENCES), 2, 16)
    labels = encode_targets(tokenizer, SENTENCES)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model(encoder_outputs=(states,), labels=labels).loss.backward()
        optimizer.step()
    return model, tokenizer, states


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 3, "use_cache": False}, {"use_cache": False}])
def test_what_was_learned_is_written(trained, settings):
    model, tokenizer, states = trained
    found = generate_texts(model, tokenizer, Decoding.of(max_new_tokens=40, **settings), states)
    assert found == [[sentence] for sentence in SENTENCES]


@pytest.mark.parametrize("num_beams", [1, 4])
def test_cache_changes_nothing_of_an_undecided_model(trained, num_beams):
    model, tokenizer, states = trained
    between = (states + states.roll(1, 0)) / 2
    found = [
        generate_texts(model, tokenizer, Decoding(num_beams, max_new_tokens=30, use_cache=cache), between)
        for cache in (True, False)
    ]
    assert found[0] == found[1]


def test_states_are_as_they_were(trained):
    model, tokenizer, states = trained
    before, training = states.clone(), model.training
    generate_texts(model, tokenizer, Decoding(3, max_new_tokens=5), states)
    assert torch.equal(states, before) and model.training == training


def test_a_case_gets_what_it_gets_alone(trained):
    model, tokenizer, states = trained
    decoding = Decoding(3, max_new_tokens=40)
    alone = [generate_texts(model, tokenizer, decoding, state[None])[0] for state in states]
    assert generate_texts(model, tokenizer, decoding, states) == alone


def test_masked_states_do_not_count(trained):
    model, tokenizer, states = trained
    more = torch.cat([states, torch.full_like(states, 50.0)], 1)
    mask = torch.tensor([1, 1, 0, 0]).expand(len(states), -1)
    found = generate_texts(model, tokenizer, Decoding(max_new_tokens=40), more, mask)
    assert found == [[sentence] for sentence in SENTENCES]


def test_several_texts_and_a_seed(trained):
    model, tokenizer, states = trained
    decoding = Decoding.of(do_sample=True, temperature=5.0, top_p=0.95, num_return_sequences=4, max_new_tokens=12)
    state = torch.random.get_rng_state()
    first, again, other = (generate_texts(model, tokenizer, decoding, states, seed=seed) for seed in (1, 1, 2))
    assert first == again != other and torch.equal(torch.random.get_rng_state(), state)
    assert [len(texts) for texts in first] == [4] * len(SENTENCES) and len(set(first[0])) > 1
    beams = generate_texts(model, tokenizer, Decoding(3, num_return_sequences=3, max_new_tokens=40), states)
    assert [texts[0] for texts in beams] == list(SENTENCES) and len(set(beams[0])) == 3


def test_repetition_is_allowed_unless_asked(trained):
    assert Decoding().no_repeat_ngram_size == 0 and Decoding().repetition_penalty == 1.0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_beam": 3}, "num_beam is no setting of decoding, did you mean num_beams?"),
        ({"topp": 0.9}, "did you mean top_p?"),
        ({"num_beams": 0}, "num_beams is 0, expected a whole number of at least 1"),
        ({"num_beams": True}, "num_beams is True, expected a whole number"),
        ({"top_p": 1.5, "do_sample": True}, "top_p is 1.5, expected more than 0 and at most 1"),
        ({"temperature": 0, "do_sample": True}, "temperature is 0, expected a positive number"),
        ({"temperature": 0.7}, "temperature and top_p are of samples"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2, expected at most num_beams 1 or do_sample"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9, more than max_new_tokens 8"),
    ],
)
def test_settings_that_mean_nothing(settings, sentence):
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        Decoding.of(**settings)


def test_more_tokens_than_positions_are_refused(trained):
    model, tokenizer, states = trained
    with pytest.raises(ValueError, match="max_new_tokens is 64, expected less than the decoder's 64 positions"):
        generate_texts(model, tokenizer, Decoding(max_new_tokens=64), states)

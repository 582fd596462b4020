import random

import pytest

from common.metrics.report.porter import porter_stem

# Examples of the rules in Porter (1980), as the whole algorithm leaves them, and of NLTK's changes.
STEMS = """
caresses caress  ponies poni  ties tie  caress caress  cats cat  feed feed  agreed agre  plastered plaster
bled bled  motoring motor  sing sing  conflated conflat  troubled troubl  sized size  hopping hop  tanned tan
falling fall  hissing hiss  fizzed fizz  failing fail  filing file  happy happi  sky sky  relational relat
conditional condit  rational ration  digitizer digit  radically radic  differently differ  operator oper
feudalism feudal  decisiveness decis  hopefulness hope  callousness callous  formality formal  sensitivity sensit
triplicate triplic  formative form  formalize formal  electrical electr  goodness good  revival reviv
allowance allow  inference infer  adjustable adjust  replacement replac  adoption adopt  communion communion
activate activ  effective effect  probate probat  rate rate  cease ceas  controlling control  rolled roll
enjoy enjoy  died die  spied spi  dying die  geology geolog  hopefully hope  are are  is is
opacities opac  opacity opac  effusions effus  atelectatic atelectat  enlarged enlarg  enlargement enlarg
cardiomegaly cardiomegali  bronchiectasis bronchiectasi  calcified calcifi  calcification calcif
"""
PAIRS = STEMS.split()


@pytest.mark.parametrize(("word", "stem"), list(zip(PAIRS[::2], PAIRS[1::2], strict=True)))
def test_stem(word, stem):
    assert porter_stem(word) == stem


@pytest.mark.parametrize("word", ["", "a", "y", "s", "ed", "ing", "eed", "ion", "sion", "ß", "肺", "...", "1.5", "yyy"])
def test_odd_words_pass(word):
    assert isinstance(porter_stem(word), str)


def test_random_words_end_in_a_prefix_or_a_known_ending():
    rng = random.Random(0)
    for _ in range(3000):
        word = "".join(rng.choices("aeiouyslteng", k=rng.randint(1, 12)))
        stem = porter_stem(word)
        kept = max(0, len(stem) - 3)
        assert stem[:kept] == word[:kept] and 0 < len(stem) <= len(word) + 1

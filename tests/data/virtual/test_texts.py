import time

from common.data.virtual.findings import CT_RATE_LABELS
from common.data.virtual.texts import _LOOKS, virtual_texts
from common.data.virtual.xray_findings import XRAY_FINDINGS
from common.text.cxr_labeller import CHEXPERT_LABELS, label_cxr


def test_every_finding_has_a_look():
    assert set(_LOOKS) == {*CT_RATE_LABELS, *XRAY_FINDINGS}


def test_texts_say_their_labels_and_depend_on_the_seed_alone():
    first, again, later = list(virtual_texts(40, 700)), list(virtual_texts(40, 700)), list(virtual_texts(20, 720))
    assert first == again and later == first[20:]
    for text in first:
        read = label_cxr(f"{text['sections']['findings']} {text['sections']['impression']}")
        assert {k: v or 0 for k, v in read.items()} == {k: v or 0 for k, v in text["labels"].items()}
    assert {label for text in first for label, v in text["labels"].items() if v == 1.0} > {"No Finding", "Lung Opacity"}
    assert list(first[0]["labels"]) == list(CHEXPERT_LABELS)


def test_five_hundred_a_second():
    list(virtual_texts(5, 0))
    begin = time.process_time()
    list(virtual_texts(200, 0))
    assert time.process_time() - begin < 0.4

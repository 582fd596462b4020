import logging

import pytest
import torch

from common.handlers.engine_state import notes
from common.handlers.out_of_memory import OOMAdviceHandler, is_out_of_memory
from tests.handlers.small_engines import Fail, make_trainer


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 189.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 10 bytes."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_gets_advice_and_goes_on(caplog, error):
    caplog.set_level(logging.ERROR, "train")
    handler = OOMAdviceHandler(["--encode_chunk 16 --decode_chunk 4", "--resolution 384"], name="diffusion")
    trainer = make_trainer([handler, Fail(error)])
    with pytest.raises(type(error)) as caught:
        trainer.run()
    assert caught.value is error
    (sentence,) = [record.getMessage() for record in caplog.records if record.name == "train"]
    assert sentence.startswith("diffusion: memory ran out at iteration 3 (")
    assert sentence.endswith("the mildest first: --encode_chunk 16 --decode_chunk 4; --resolution 384.")
    assert notes(trainer) == [sentence]


def test_a_real_allocation_failure_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    wrapped = RuntimeError("step failed")
    wrapped.__cause__ = caught.value
    assert is_out_of_memory(wrapped)


def test_other_errors_get_no_advice(caplog):
    with pytest.raises(RuntimeError, match="shapes differ"):
        make_trainer([OOMAdviceHandler(["--x 1"]), Fail(RuntimeError("shapes differ"))]).run()
    assert not [record for record in caplog.records if record.name == "train"]


@pytest.mark.parametrize("advice", [[], "--encode_chunk 16"])
def test_advice_is_a_list(advice):
    with pytest.raises(ValueError, match="at least one override"):
        OOMAdviceHandler(advice)

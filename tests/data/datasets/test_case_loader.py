"""Cases that cannot be used are left out with the reason, whatever failed; what is no case's fault is raised."""

import pytest

from common.data.datasets.case_loader import CaseLoader, reason_of
from common.io.bad_input import BadInput

CASES = [{"case": name, "image": f"{name}.png"} for name in "abcd"]


class Failing:
    """A data set whose second item raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return len(CASES)

    def __getitem__(self, index: int) -> dict[str, int]:
        if index == 1:
            raise self.error
        return {"x": index}


def wrapped(cause: Exception) -> RuntimeError:
    """As MONAI wraps what a transform raises."""
    try:
        raise RuntimeError("applying transform <object at 0x7f00>") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BadInput("b.png", "is damaged"), "is damaged"),
        (wrapped(BadInput("b.png", "is damaged")), "is damaged"),
        (wrapped(ValueError("the image is (3, 2)")), "the image is (3, 2)"),
        (wrapped(KeyError("spacing")), "KeyError: 'spacing'"),
        (RuntimeError("shape '[2]' is invalid\nfor input"), "RuntimeError: shape '[2]' is invalid for input"),
        (ValueError(), "ValueError"),
    ],
)
def test_whatever_fails_for_one_case_is_its_row(error: Exception, reason: str) -> None:
    loader = CaseLoader(Failing(error), CASES, batch_size=2)
    batches = [(batch["x"].tolist(), loader.paths) for batch in loader]
    assert batches == [([0], ["a.png"]), ([2, 3], ["c.png", "d.png"])]
    assert loader.excluded == [{"path": "b.png", "reason": reason}]
    assert "0x" not in loader.excluded[0]["reason"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ModuleNotFoundError("No module 'x'")])
def test_what_is_no_case_of_its_own_is_raised(error: Exception) -> None:
    for raised in (error, wrapped(error)):
        with pytest.raises(type(raised)):
            list(CaseLoader(Failing(raised), CASES))
        with pytest.raises(type(raised)):
            reason_of(raised)

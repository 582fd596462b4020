import pytest

from common.data.ehr.vital_signs import ED_VITALS, VITAL_SIGNS, body_temperature


@pytest.mark.parametrize(
    ("charted", "unit", "degrees"),
    [(98.6, "F", 37.0), (104.9, "F", 40.5), (77.0, "F", 25.0), (36.8, "C", 36.8), (31.4, "C", 31.4), (44.0, "C", 44.0)],
)
def test_the_number_tells_the_unit_of_a_temperature(charted, unit, degrees):
    value, found = body_temperature(charted)
    assert found == unit
    assert value == pytest.approx(degrees)


@pytest.mark.parametrize("charted", [0, 9.8, 24.9, 44.1, 60, 76.9, 111.3, 986, -37, float("nan")])
def test_a_temperature_that_no_body_has_is_refused(charted):
    assert body_temperature(charted) is None


def test_no_number_is_a_body_temperature_in_both_units():
    assert VITAL_SIGNS["temperature"].low * 1.8 + 32 > VITAL_SIGNS["temperature"].high


def test_the_emergency_tables_have_seven_of_the_vital_signs():
    assert ED_VITALS == ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain")
    assert all(vital.low < vital.high for vital in VITAL_SIGNS.values())

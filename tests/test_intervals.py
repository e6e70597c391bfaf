"""Means, intervals, power, p-values and Holm's correction, against numbers from elsewhere and against simulation."""

import math

import numpy as np
import pytest

from convit_edu.lab.intervals import Missing, compare, estimate, holm, inside, power, student_t


def test_students_t_is_that_of_the_tables():
    for freedom, quantile in ((1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (500, 1.965)):
        assert student_t(freedom) == pytest.approx(quantile, abs=5e-4)
        assert inside(quantile, freedom) == pytest.approx(0.95, abs=1e-4)
    assert student_t(9, 0.99) == pytest.approx(3.250, abs=5e-4)
    assert student_t(4, 0.5) == pytest.approx(0.741, abs=5e-4)
    for freedom, confidence in ((0, 0.95), (4, 0), (4, 1)):
        with pytest.raises(ValueError, match="at least one degree of freedom and a confidence in"):
            student_t(freedom, confidence)


def test_an_estimate_is_the_mean_and_its_interval():
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)  # the deviation is 1
    assert (found.low, found.high) == (2.0 - found.half, 2.0 + found.half)
    assert (str(found), found.signed, found.shown(2)) == ("2.0 ± 2.5", "+2.0 ± 2.5", "2.00 ± 2.48")
    one = estimate([-1.25])
    assert math.isnan(one.half) and (str(one), one.signed, one.shown(2, "+")) == ("-1.2", "-1.2", "-1.25")
    with pytest.raises(Missing, match="at least one value"):
        estimate([])


def test_a_comparison_pairs_by_seed():
    a, b = {0: 61.0, 1: 72.0, 2: 80.0, 5: 0.0}, {2: 78.0, 0: 60.0, 1: 70.0, 9: 99.0}
    found = compare(a, b)  # differences 1, 2 and 2; the arms themselves are ten points apart
    assert found.n == 3 and found.mean == pytest.approx(5 / 3) and found.half < 1.5
    with pytest.raises(Missing):
        compare({0: 1.0}, {1: 1.0})


def test_p_and_deviation_of_an_estimate():
    found = estimate([10, 12, 17])
    assert found.deviation == pytest.approx(math.sqrt(13))
    assert found.p == pytest.approx(1 - inside(13 / math.sqrt(13 / 3), 2))
    assert found.p < 0.05 and found.low > 0  # the two always agree
    edge = estimate([-1, 1 + 2e-9, 0, 3])
    assert (edge.p < 0.05) == (edge.low > 0 or edge.high < 0)
    assert math.isnan(estimate([3]).p) and math.isnan(estimate([3]).deviation)
    assert estimate([2, 2, 2]).p == 0 and estimate([0, 0, 0]).p == 1


@pytest.mark.parametrize(("effect", "deviation", "n"), [(2, 2, 5), (5, 2, 5), (3, 6, 3), (1, 1, 10), (1, 3, 2)])
def test_power_is_how_often_an_interval_finds_the_effect(effect, deviation, n):
    values = np.random.default_rng(0).normal(effect, deviation, (200_000, n))
    half = student_t(n - 1) * values.std(1, ddof=1) / math.sqrt(n)
    assert power(effect, deviation, n) == pytest.approx((values.mean(1) > half).mean(), abs=0.004)
    assert power(-effect, deviation, n) == power(effect, deviation, n)


def test_power_grows_with_seeds_and_is_certain_without_spread():
    assert power(2, 2, 3) < power(2, 2, 5) < power(2, 2, 10) < 1
    assert power(2, 0.0, 2) == 1


def test_holm_multiplies_the_smallest_by_all_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    found = holm([0.02, math.nan, 0.001])
    assert found[0] == 0.02 and math.isnan(found[1]) and found[2] == 0.002
    assert holm([]) == []

"""Results come in order, few items wait, and an error reaches the caller."""

import time
from collections.abc import Iterator

import pytest

from lilliput.tokenizer.workers import in_order


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(in_order(slow_first, range(20), 4)) == [(number, number * number) for number in range(20)]
    assert list(in_order(slow_first, [], 4)) == []


def test_no_more_than_twice_the_workers_wait() -> None:
    drawn: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(50):
            drawn.append(number)
            yield number

    for number, _ in in_order(str, numbers(), 3):
        assert drawn[-1] - number <= 6
    assert len(drawn) == 50


def test_an_error_reaches_the_caller() -> None:
    found = in_order(lambda number: 1 // number, [1, 0, 1], 2)
    assert next(found) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(found)

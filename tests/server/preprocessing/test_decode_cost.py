"""What pictures should take to decode: told by their headers, learnt from their like, and forgotten again."""

import pytest
from resonnx_server.preprocessing.decode_cost import DecodeCost
from resonnx_server.runtime.pictures.headers import Header

SMALL = Header("PNG", 32, 32)
LARGE = Header("PNG", 6000, 4000)
S = 1_000_000_000


@pytest.fixture
def now() -> list[int]:
    return [0]


@pytest.fixture
def cost(now: list[int]) -> DecodeCost:
    return DecodeCost(lambda: now[0])


def test_large_pictures_make_small_ones_seem_no_slower(cost: DecodeCost) -> None:
    assert cost.expected_ns(SMALL) == 0, "nothing is known"
    for _ in range(50):
        cost.learn(LARGE, S // 4)
    assert cost.expected_ns(LARGE) == pytest.approx(S / 4, rel=0.05)
    assert cost.expected_ns(SMALL) < 300_000


def test_small_pictures_are_learnt_in_company_of_large_ones_of_another_format(cost: DecodeCost) -> None:
    for _ in range(400):
        cost.learn(SMALL, 150_000)
        cost.learn(Header("JPEG", 6000, 4000), S)
    assert cost.expected_ns(SMALL) == pytest.approx(150_000, rel=0.2)


def test_one_picture_teaches_little_unless_it_is_large(cost: DecodeCost) -> None:
    cost.learn(SMALL, 150_000)
    assert cost.expected_ns(SMALL) < 15_000


def test_nobodys_picture_makes_others_seem_slow_without_bound(cost: DecodeCost) -> None:
    cost.learn(LARGE, 3600 * S)
    assert cost.expected_ns(SMALL) < 4_000_000


def test_what_was_learnt_fades(cost: DecodeCost, now: list[int]) -> None:
    for _ in range(1000):
        cost.learn(LARGE, S // 4)
    before = cost.expected_ns(LARGE)
    now[0] = 10 * S
    assert cost.expected_ns(LARGE) == pytest.approx(before, rel=0.01)
    now[0] = 180 * S
    assert cost.expected_ns(LARGE) < before / 100


@pytest.mark.parametrize("seconds", [1, 8])
def test_what_pictures_go_on_telling_does_not_fade_however_rare_they_are(
    cost: DecodeCost, now: list[int], seconds: int
) -> None:
    for _ in range(1500):
        now[0] += seconds * S
        assert cost.expected_ns(SMALL) <= 150_000
        cost.learn(SMALL, 150_000)
    now[0] += seconds * S
    assert cost.expected_ns(SMALL) == pytest.approx(150_000, rel=0.1)


def test_a_machine_that_became_slow_is_known_soon(cost: DecodeCost) -> None:
    for _ in range(100_000):
        cost.learn(SMALL, 150_000)
    for _ in range(3000):
        cost.learn(SMALL, 600_000)
    assert cost.expected_ns(SMALL) == pytest.approx(600_000, rel=0.15)


def test_one_picture_outweighs_no_crowd(cost: DecodeCost) -> None:
    for _ in range(10_000):
        cost.learn(SMALL, 150_000)
    cost.learn(LARGE, 3600 * S)
    assert cost.expected_ns(SMALL) < 1_200_000, "a quarter of the most that a pixel may take"


def test_a_reduced_picture_teaches_nothing_of_whole_ones(cost: DecodeCost) -> None:
    for _ in range(50):
        cost.learn(Header("JPEG", 6000, 4000, scalable=True), S // 8, divisor=8)
    assert cost.expected_ns(Header("JPEG", 6000, 4000, scalable=True)) == 0
    assert cost.expected_ns(Header("JPEG", 6000, 4000, scalable=True), divisor=8) == pytest.approx(S / 8, rel=0.05)

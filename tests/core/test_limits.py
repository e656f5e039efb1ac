"""The limits of the protocol fit each other, and moments and ages say what they say, to the edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from guard.core.altered import altered, with_changed
from guard.core.attest import Halves
from guard.core.evidence import SHOTS_UNREAD, ClusterView, Up, unseen_cluster
from guard.core.instant import NS_PER_S, Age, Instant, after, elapsed_s
from guard.core.messages import SessionHalf
from guard.core.policy import Policy

RELATIONS: list[tuple[dict[str, float], dict[str, float], str]] = [  # just right, just wrong, what is named
    ({"corr_s": 0.79}, {"corr_s": 0.8}, "corr_s"),
    ({"yield_s": 0.801}, {"yield_s": 0.8}, "yield_s"),
    ({"accept_s": 3.0}, {"accept_s": 3.001}, "accept_s"),
    ({"beat_s": 0.5}, {"beat_s": 0.501}, "beat_s"),
    ({"heard_s": 1.001, "beat_s": 0.5}, {"heard_s": 1.0, "beat_s": 0.5}, "heard_s"),
    ({"shot_s": 3.001}, {"shot_s": 3.0}, "shot_s"),
    ({"sampling_s": 0.001}, {"sampling_s": 0.0}, "sampling_s"),
    ({"handler_retry_s_min": 15.0}, {"handler_retry_s_min": 15.001}, "handler_retry_s_min"),
]


@pytest.mark.parametrize(("right", "wrong", "named"), RELATIONS, ids=[name for *_, name in RELATIONS])
def test_limits_that_do_not_fit_each_other_build_no_policy(right: dict, wrong: dict, named: str) -> None:
    """Each relation at its edge; what is wrong is named, everything at once."""
    Policy(**right)
    with pytest.raises(ValueError, match=f"^cannot use these limits: [^;]*{named}[^;]*$"):
        Policy(**wrong)
    with pytest.raises(ValueError, match=r"^cannot use these limits: corr_s [^;]*; accept_s [^;]*$"):
        Policy(corr_s=9.0, accept_s=9.0)


def test_a_moment_moves_both_ways_and_is_measured_in_seconds() -> None:
    """To the nanosecond."""
    moment = Instant(5 * NS_PER_S)
    assert after(moment, 1.5) == 6_500_000_000
    assert after(moment, -0.25) == 4_750_000_000
    assert elapsed_s(moment, Instant(7_500_000_000)) == 2.5
    assert elapsed_s(Instant(7_500_000_000), moment) == -2.5


@pytest.mark.parametrize(
    ("lo_s", "hi_s", "good"),
    [
        (0.0, 0.0, True),
        (0.5, None, True),
        (1.0, 1.0, True),
        (-0.001, 1.0, False),
        (-0.001, None, False),
        (1.0, 0.999, False),
    ],
)
def test_an_age_is_an_interval_that_begins_in_the_past(lo_s: float, hi_s: float | None, good: bool) -> None:
    """Anything else is a bug of the caller."""
    if good:
        assert Age(lo_s, hi_s) == Age(lo_s, hi_s)
        return
    with pytest.raises(ValueError, match="cannot build an age"):
        Age(lo_s, hi_s)


def test_an_age_grows_with_time_and_widens_with_its_journey() -> None:
    """By 200 ppm at both ends, and by the round trip at the upper one; no journey takes less than nothing."""
    assert Age(1.0, 2.0).older(0.5) == Age(1.5, 2.5)
    assert Age(1.0, None).older(0.5) == Age(1.5, None)
    for trip_s, most_s in ((0.5, 10.5), (0.0, 10.0), (-1.0, 10.0)):
        wide = Age(5.0, 10.0).widened(trip_s)
        assert wide.lo_s == pytest.approx(5.0 * (1 - 200e-6), abs=1e-12)
        assert wide.hi_s == pytest.approx(most_s * (1 + 200e-6), abs=1e-12)
    assert Age(5.0, None).widened(0.5).hi_s is None


@dataclass(frozen=True)
class State:
    """Two fields, no slots."""

    first: int = 1
    second: int = 2


def test_an_altered_state_is_another_with_the_same_fields() -> None:
    """The old one stays; a name that is no field is a bug, and is named."""
    old: Any = State()
    for new in (altered(old, second=3), with_changed(old, {"second": 3})):
        assert (new, old) == (State(1, 3), State(1, 2))
        assert type(new) is State
    with pytest.raises(TypeError, match=r"^a State has no \['third'\]$"):
        altered(old, second=3, third=4)


@pytest.mark.parametrize("controller", Up)
def test_a_cluster_that_could_not_be_read_is_not_ours_to_touch(controller: Up) -> None:
    """A person's maintenance may stand, and a shot may be queued."""
    unseen = ClusterView(
        at=Instant(7),
        controller=controller,
        peer_controller=Up.UNKNOWN,
        maintenance=None,
        ours=None,
        persons_maintenance=True,
        managed=None,
        failed_stop=False,
        pending=(SHOTS_UNREAD,),
    )
    assert unseen_cluster(Instant(7), controller) == unseen
    assert unseen_cluster(Instant(7)).controller is Up.UNKNOWN


def test_a_lost_connection_takes_both_halves_along() -> None:
    """The count of connections and the boot stay."""
    assert Halves("boot", 3, "mine", "peers", True).lost() == Halves("boot", 3, None, None, False)


def test_a_new_connection_draws_a_half_and_keeps_what_the_peer_said_before() -> None:
    """It is said until the peer has it; the peer has it once it repeats it."""
    new = Halves("boot", 3, None, "early", False).connected("mine")
    assert new == Halves("boot", 4, "mine", "early", False)
    assert new.said() == SessionHalf("boot", 4, "mine", "early")
    assert Halves("boot", 4, "mine", None, False).said() == SessionHalf("boot", 4, "mine", "")
    assert Halves("boot", 4, None, "early", False).said() is None
    for seen, echoed in (("mine", True), ("older", False), ("", False)):
        assert new.heard(SessionHalf("boot-B", 9, "theirs", seen)) == Halves("boot", 4, "mine", "theirs", echoed)

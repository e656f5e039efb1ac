"""`verdict`, `hold`, `release`, `init`: what is reported as done was read back, and every refusal has its code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from guard.cli.options import DURATION
from guard.cli.orders import another, armed, held_on_both, lacking, may_now
from guard.cli.render import when
from guard.errors import Unavailable
from guard.wire import load_private, load_public
from tests.cli.desk import INHIBIT, Desk, fits, held, one_object, pairguard, row, status, write_settings

GRANT = {"verdict": "GRANT", "row": "V25", "reason": "same-gated", "text": "t", "next": "commit", "era": 7}


def dry(outcome: str, **data: Any) -> dict[str, Any]:
    said = {"candidate": "fs1a", "target": "fs1b", "pair": "fs1", "outcome": outcome, "text": "because"}
    return {**said, "data": data}


# ------------------------------------------------------------------ verdict


@pytest.mark.parametrize(
    ("answer", "code", "may"),
    [
        (dry("same-gated", **GRANT), 0, "yes"),
        (dry("winner-us"), 0, "yes"),
        (dry("living-target", **{**GRANT, "next": "no"}), 81, "no"),
        (dry("not-preferred", verdict="TIE", row="V24", reason="not-preferred", next="no"), 81, "no"),
        (dry("peer-won"), 81, "no"),
        (dry("no-register"), 81, "no"),
        (dry("inhibited"), 80, "wait"),
        (dry("peer-alive"), 80, "wait"),
        (dry("needs-yield", verdict="CONSENT", row="V17", reason="needs-yield", next="want-yield"), 80, "wait"),
        (dry("arbiter-silent"), 85, "no"),
        (dry("no-answer"), 85, "no"),
        (dry("a-reason-of-tomorrow"), 81, "no"),
    ],
)
def test_verdict_codes(desk: Desk, config: Path, answer: dict[str, Any], code: int, may: str) -> None:
    """0 yes, 80 wait, 81 no, 85 nobody answers; the JSON keys of the contract in their order."""
    desk.answers["verdict"] = answer
    done = pairguard("verdict", "--target", "fs1b", "--json", config=config)
    assert done.exit_code == code
    found = one_object(done, "pairguard.verdict/1")
    promised = ["schema", "pair", "candidate", "target", "verdict", "row", "may", "reason", "text", "evidence"]
    assert list(found)[:10] == promised
    assert found["may"] == may
    assert ("retry_after_s" in found) == (code == 80)
    text = pairguard("verdict", "--target", "fs1b", config=config)
    assert text.exit_code == code
    fits(text.stdout)
    assert "next:" in text.stdout


def test_a_stale_verdict_of_another_reason_is_no_yes() -> None:
    """The guard repeats its last verdict beside a refusal: only the one that the reason names counts."""
    assert may_now("offer-passed", GRANT) == "wait"
    assert may_now("own-disk", GRANT) == "no"
    assert may_now("same-gated", {**GRANT, "next": "no"}) == "no"


def test_verdict_says_that_the_register_has_a_winner(desk: Desk, config: Path) -> None:
    """A decision that stands is named."""
    desk.answers["verdict"] = dry("peer-won")
    desk.answers["status"] = status(row(register={"winner": "fs1b"}))
    done = pairguard("verdict", "--target", "fs1b", config=config)
    assert done.exit_code == 81
    assert "the register has a winner already: fs1b" in " ".join(done.stdout.split())


def test_a_refused_dry_run_is_81(desk: Desk, config: Path) -> None:
    """What the guard refuses is a no."""
    done = pairguard("verdict", "--target", "fs1b", config=config)
    assert done.exit_code == 81
    assert "next:" in done.stderr


@pytest.mark.parametrize(
    ("target", "command"),
    [("fs9", "pairguard verdict --target fs1b"), ("fs1a", "on fs1b: pairguard verdict --target fs1a")],
)
def test_a_verdict_on_who_is_not_the_peer_is_84(desk: Desk, config: Path, target: str, command: str) -> None:
    """An unknown node matches nothing; of this very node the peer judges: the host and the command are named."""
    desk.answers["verdict"] = dry("same-gated", **GRANT)
    done = pairguard("verdict", "--target", target, config=config)
    assert done.exit_code == 84
    fits(done.stderr)
    assert f"next: {command}" in " ".join(done.stderr.split())
    assert desk.asked == []


# ------------------------------------------------------------------ hold


def test_hold_is_0_only_once_it_reads_held_on_both(desk: Desk, config: Path) -> None:
    """The status is read until it says so; key, reason and lease reach the guard."""
    shown = iter([held("braked", verified=False), held("in-force", verified=False)])
    desk.answers["status"] = lambda _: status(next(shown, held()))
    desk.answers["hold"] = {"outcome": "braked", "text": "", "key": "k1", "pair": "fs1"}
    done = pairguard("hold", "--for", "1h30m", "--reason", "new image", "--key", "k1", "--json", config=config)
    assert done.exit_code == 0
    pair = one_object(done, "pairguard.hold/1")["pairs"][0]
    assert (pair["outcome"], pair["state"], pair["missing"]) == ("held", "held", [])
    assert desk.asked == [("hold", {"lease_s": 5400.0, "reason": "new image", "key": "k1"})]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (held("in-force", verified=False), "fs1b has not proven"),
        (held("held", verified=False), "fs1b has not proven"),
        (held("braked"), "maintenance-mode does not read true"),
        (held("in-force", arbiter="silent"), "the arbiter does not answer"),
        (held("in-force", nodes={"fs1b": {"guard": "silent"}}), "the guard of fs1b does not answer"),
        (row(), "no hold at all"),
    ],
)
def test_not_held_in_time_is_83_with_what_is_missing(
    desk: Desk, config: Path, seen: dict[str, Any], words: str
) -> None:
    """PARTIAL, and the row is there."""
    desk.answers["status"] = status(seen)
    desk.answers["hold"] = {"outcome": "braked", "text": "", "key": "k1", "pair": "fs1"}
    done = pairguard("hold", "--for", "30m", "--reason", "x", "--wait", "0s", "fs1", config=config)
    assert done.exit_code == 83
    fits(done.stdout)
    assert words in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[1].startswith("fs1")


def test_a_silent_arbiter_is_not_the_peers_fault() -> None:
    """Who else answers is known through the arbiter: without it nobody is accused."""
    seen = held("in-force", arbiter="silent", nodes={"fs1b": {"guard": "?"}})
    assert not [text for text in lacking(seen["pairs"][0] if "pairs" in seen else seen) if "guard of fs1b" in text]


def test_a_guard_that_dies_after_the_order_is_83(folder: Path) -> None:
    """What was ordered may be braked: not 85, which would say that nothing happened."""
    assert lacking(Unavailable("cannot ask the daemon", "gone")) == [
        "the guard stopped answering: cannot ask the daemon: gone"
    ]


def test_a_key_that_holds_for_another_reason_is_82(desk: Desk, config: Path) -> None:
    """The same key with another intent is a conflict: nothing is reported as held that is not."""
    said = {"outcome": "conflict", "text": "this key holds for another reason: first", "key": "KK"}
    desk.answers["hold"] = {**said, "data": {"lease_s": 40.0, "reason": "first"}}
    done = pairguard("hold", "--for", "2h", "--reason", "second", "--key", "KK", config=config)
    assert done.exit_code == 82
    assert "first" in done.stderr
    assert "next:" in done.stderr


def test_a_hold_that_stands_already_is_shown_as_it_is(desk: Desk, config: Path) -> None:
    """Its lease and its reason, not those that were asked for: a lease is not extended by asking again."""
    desk.rows = [row(hold=held())]
    stands = {"lease_s": 40.0, "reason": "first"}
    desk.answers["hold"] = {"outcome": "braked", "text": "stands already", "key": "KK", "data": stands}
    done = pairguard("hold", "--for", "2h", "--reason", "first", "--key", "KK", "--json", config=config)
    [found] = one_object(done, "pairguard.hold/1")["pairs"]
    assert (found["lease_s"], found["reason"]) == (40.0, "first")


def test_a_hold_that_stands_already_says_on_the_screen_that_it_is_not_extended(desk: Desk, config: Path) -> None:
    """Without a key the same reason is the same hold (DESIGN.md has no silent extension): what is left, and the way."""
    desk.answers["status"] = status(held())
    desk.answers["hold"] = {"outcome": "braked", "text": "", "key": "KK", "data": {"lease_s": 40.0, "reason": "x"}}
    done = pairguard("hold", "--for", "2h", "--reason", "x", config=config)
    assert done.exit_code == 0
    fits(done.stdout)
    shown = " ".join(done.stdout.split())
    assert "asking again does not extend its lease, 40 s are left" in shown
    assert "--key" in shown
    desk.answers["hold"] = {"outcome": "braked", "text": "", "key": "K2", "pair": "fs1"}
    fresh = pairguard("hold", "--for", "2h", "--reason", "y", config=config)
    assert "already" not in fresh.stdout


def test_hold_of_another_pair_is_84_and_orders_nothing(desk: Desk, config: Path) -> None:
    """This node can only hold its own."""
    assert pairguard("hold", "--for", "30m", "--reason", "x", "fs9", config=config).exit_code == 84
    assert desk.asked == []


def test_hold_without_a_reason_or_a_lease_is_usage(desk: Desk, config: Path) -> None:
    """Nothing is ordered."""
    for words in (("--for", "30m", "--reason", "  "), ("--for", "0s", "--reason", "x")):
        assert pairguard("hold", *words, config=config).exit_code == 2
    assert desk.asked == []


def test_held_needs_both_nodes() -> None:
    """A state word alone, one node alone, or an empty list is not enough."""
    assert held_on_both(held())
    for wrong in (held("in-force"), held(verified=False), row(hold={"state": "held", "verified": {}})):
        assert not held_on_both(wrong)
        assert lacking(wrong)
    assert not held_on_both(row(hold={"state": "held", "verified": {"fs1a": True}}))


def test_hold_without_a_daemon_is_85(config: Path) -> None:
    """Nobody was told."""
    assert pairguard("hold", "--for", "30m", "--reason", "x", config=config).exit_code == 85


# ------------------------------------------------------------------ release


def test_release_is_0_only_once_nothing_is_held(desk: Desk, config: Path) -> None:
    """Read back."""
    shown = iter([held(), held("settling"), held("releasing")])
    desk.answers["status"] = lambda _: status(next(shown, row()))
    desk.answers["release"] = {"outcome": "releasing", "text": "resuming is proven safe", "pair": "fs1"}
    done = pairguard("release", "--key", "k1", "--json", config=config)
    assert done.exit_code == 0
    found = one_object(done, "pairguard.release/1")["pairs"][0]
    assert (found["outcome"], found["key"]) == ("released", "k1")
    assert desk.asked == [("release", {"key": "k1"})]


@pytest.mark.parametrize(
    "reason", ["not-whole", "not-quiet", "inhibited", "forecast", "shot-pending", "forecast-asked"]
)
def test_a_refused_release_is_86_with_reason_and_next(desk: Desk, config: Path, reason: str) -> None:
    """Still held, why, and one next command."""
    desk.answers["status"] = status(held())
    desk.answers["release"] = {"outcome": reason, "text": "the reason in words", "pair": "fs1"}
    done = pairguard("release", config=config)
    assert done.exit_code == 86
    fits(done.stdout)
    assert "still held: the reason in words" in done.stdout
    assert "next: " in done.stdout
    found = one_object(pairguard("release", "--json", config=config), "pairguard.release/1")["pairs"][0]
    assert (found["outcome"], found["reason"], bool(found["next"])) == ("holding", reason, True)


def test_release_names_the_holds_that_it_ended(desk: Desk, config: Path) -> None:
    """Whose they were, since when and why: also where another one still holds; what stands on is not named."""
    other = {**INHIBIT, "id": "person:2", "owner": "anna[7]", "reason": "firmware of the shelf"}
    both = row(hold={"state": "held", "inhibits": [INHIBIT, other], "verified": {"fs1a": True, "fs1b": True}})
    shown = iter([status(both)])
    desk.answers["status"] = lambda _: next(shown, status(row()))
    desk.answers["release"] = {"outcome": "releasing", "text": "", "pair": "fs1"}
    done = pairguard("release", config=config)
    fits(done.stdout)
    words = " ".join(done.stdout.split())
    assert f"ended: the hold of anna[7] since {when(INHIBIT['since'])}: firmware of the shelf" in words
    assert "ended: the hold of root[1]" in words
    half = row(hold={"state": "held", "inhibits": [{**INHIBIT, "ended": True}, other]})
    shown = iter([status(both)])
    desk.answers["status"] = lambda _: next(shown, status(half))
    desk.answers["release"] = {"outcome": "not-quiet", "text": "t", "pair": "fs1"}
    left = pairguard("release", "--json", config=config)
    [found] = one_object(left, "pairguard.release/1")["pairs"]
    assert [each["owner"] for each in found["ended"]] == ["root[1]"]


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("peer-forecast", "on fs1b: crm_simulate -L -S"),
        ("arbiter-silent", "on the arbiter's machine (10.20.40.1): systemctl status pairguard-witness"),
    ],
)
def test_what_is_to_be_done_elsewhere_names_the_machine_and_the_command(
    desk: Desk, folder: Path, reason: str, command: str
) -> None:
    """No "there": whoever reads it knows where to type what."""
    file = write_settings(folder, more='[bus]\nhost = "10.20.40.1"\n')
    desk.answers["status"] = status(held())
    desk.answers["release"] = {"outcome": reason, "text": "the reason in words", "pair": "fs1"}
    done = pairguard("release", config=file)
    assert f"next: {command}" in " ".join(done.stdout.split())


@pytest.mark.parametrize("words", [("release",), ("hold", "--for", "30m", "--reason", "new image"), ("explain",)])
def test_the_pair_of_another_node_names_the_command_to_give_on_it(
    desk: Desk, config: Path, words: tuple[str, ...]
) -> None:
    """84, with the whole command."""
    done = pairguard(*words, "fs9", config=config)
    assert done.exit_code == 84
    said = " ".join(done.stderr.split())
    assert f"next: on a node of fs9: pairguard {words[0]}" in said
    assert said.endswith("fs9")


def test_a_release_that_does_not_end_in_time_is_86(desk: Desk, config: Path) -> None:
    """Releasing is not released."""
    refused = {"reason": "not-quiet", "text": "quiet for 3 s of 60 s"}
    desk.answers["status"] = status(row(hold={"state": "releasing", "inhibits": [], "release_refused": refused}))
    desk.answers["release"] = {"outcome": "releasing", "text": "", "pair": "fs1"}
    done = pairguard("release", "--wait", "0s", config=config)
    assert done.exit_code == 86
    assert "quiet for 3 s of 60 s" in done.stdout


def test_releasing_what_is_not_held_is_0_and_orders_nothing(desk: Desk, config: Path) -> None:
    """An inhibit of anybody means held."""
    assert pairguard("release", config=config).exit_code == 0
    assert desk.asked == []
    assert not armed(row(hold={"state": "none", "inhibits": [INHIBIT]}))
    assert not armed(row(hold={"state": None, "inhibits": []}))


# ------------------------------------------------------------------ init


def test_init_makes_the_register(desk: Desk, config: Path) -> None:
    """The preferred node and the key reach the guard; a second time it says that it exists."""
    desk.answers["init"] = {"outcome": "made", "pair": "fs1", "era": 1}
    done = pairguard("init", "--preferred", "fs1b", "--key", "k", "--json", config=config)
    assert done.exit_code == 0
    assert one_object(done, "pairguard.init/1")["outcome"] == "made"
    assert desk.asked == [("init", {"preferred": "fs1b", "key": "k"})]
    desk.answers["init"] = {"outcome": "exists", "pair": "fs1", "era": 7}
    again = pairguard("init", config=config)
    assert again.exit_code == 0
    assert "has a register already, era 7" in again.stdout


@pytest.mark.parametrize("words", [(), ("--keys",)])
def test_who_is_not_of_the_pair_cannot_be_preferred(folder: Path, desk: Desk, words: tuple[str, ...]) -> None:
    """84 before anything is made: no key, no register."""
    file = write_settings(folder, keys=False)
    desk.answers["init"] = {"outcome": "made", "pair": "fs1", "era": 1}
    done = pairguard("init", "--preferred", "fs9", *words, config=file)
    assert done.exit_code == 84
    assert "pairguard init --preferred fs1a" in " ".join(done.stderr.split())
    assert desk.asked == []
    assert not (folder / "keys" / "private.pem").exists()


def test_init_makes_keys_that_work_and_never_overwrites(folder: Path, desk: Desk) -> None:
    """The private one is for its owner alone; the next run keeps it and goes on to the register."""
    file = write_settings(folder, keys=False)
    desk.answers["init"] = {"outcome": "made", "pair": "fs1", "era": 1}
    done = pairguard("init", "--keys", config=file)
    assert done.exit_code == 0
    fits(done.stdout)
    assert "missing here: arbiter.pub" in done.stdout
    assert desk.asked == []
    private = folder / "keys" / "private.pem"
    before = private.read_bytes()
    assert private.stat().st_mode & 0o777 == 0o600
    public = load_public(folder / "keys" / "public" / "fs1a.pub")
    public.verify(load_private(private).sign(b"x"), b"x")
    found = one_object(pairguard("init", "--keys", "--json", config=file), "pairguard.init/1")
    assert (found["outcome"], found["keys"]["created"]) == ("made", False)
    assert private.read_bytes() == before


def test_the_witness_gets_keys_but_no_register(folder: Path) -> None:
    """A register is made from a node of a whole pair."""
    file = folder / "witness.toml"
    file.write_text(f'site = "lab"\n[keys]\nprivate = "{folder}/k/p.pem"\npublic_dir = "{folder}/k"\n')
    assert pairguard("init", "--keys", config=file).exit_code == 0
    assert (folder / "k" / "arbiter.pub").is_file()
    assert pairguard("init", config=file).exit_code == 84


def test_a_pair_that_is_not_whole_gets_no_register(desk: Desk, config: Path) -> None:
    """The guard refuses: 81."""

    def refuse(_: Mapping[str, Any]) -> Mapping[str, Any]:
        from guard.errors import Refused

        raise Refused("cannot make a register", "the pair is not whole", "run: pairguard status")

    desk.answers["init"] = refuse
    done = pairguard("init", config=config)
    assert done.exit_code == 81
    assert "not whole" in done.stderr


@pytest.mark.parametrize(
    ("command", "code"), [("hold --for 5m --reason x", 84), ("release", 84), ("verdict --target b", 84)]
)
def test_orders_belong_on_a_node(folder: Path, command: str, code: int) -> None:
    """On the arbiter's machine there is nothing to order."""
    file = folder / "witness.toml"
    file.write_text(f'site = "lab"\n[keys]\nprivate = "{folder}/k/p.pem"\npublic_dir = "{folder}/k"\n')
    assert pairguard(*command.split(), config=file).exit_code == code


@pytest.mark.parametrize("lease", ["1000000s", "300h", "3600.5s", "30m"])
def test_the_command_that_a_refusal_names_is_one(folder: Path, config: Path, lease: str) -> None:
    """In seconds it was written as 1e+06s, which the very same command refuses."""
    refused = pairguard("hold", "fs9", "--for", lease, "--reason", "x", config=config)
    assert refused.exit_code == 84
    [word] = re.findall(r"--for (\S+)", refused.stderr)
    assert DURATION.convert(word, None, None) == DURATION.convert(lease, None, None)


@pytest.mark.parametrize(("left_s", "told"), [(600.0, True), (3590.0, False), (None, False)])
def test_a_hold_that_became_one_with_a_shorter_one_says_whose_lease_counts(left_s: float | None, told: bool) -> None:
    """One --key at both nodes at once: the first stands for both. "Held for 1 h" would be believed, and be false."""
    ours = {"id": "person:k", "lease_s": left_s, "reason": "r"}
    row = {"hold": {"inhibits": [ours, {"id": "person:x", "lease_s": 1.0}]}}
    assert (another(row, "person:k", 3600.0) is not None) == told
    assert another(row, "person:unknown", 3600.0) is None

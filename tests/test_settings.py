"""Settings: what is wrong stops the start, in words that say where, what and what is allowed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fencing.manifest import WAIT_S
from guard.cli.values import duration
from guard.core.policy import Policy
from guard.errors import SettingsError
from guard.settings import Fence, Limits, fragments_of, load_guard, load_witness, seconds

GOOD = """\
site = "north"
[pair]
name = "fs1"
node = "fs1a"
peer = "fs1b"
[keys]
private = "/etc/pairguard/keys/private.pem"
public_dir = "/etc/pairguard/keys/public"
[replication]
resources = ["r0"]
[fence.fs1b]
delegate = "fence_ipmilan"
options = { ip = "192.0.2.21", lanplus = "1" }
"""
WITNESS = """\
site = "north"
[keys]
private = "/etc/pairguard/keys/private.pem"
public_dir = "/etc/pairguard/keys/public"
"""


def written(folder: Path, text: str, name: str = "pairguard.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*files: Path, load: Callable[..., Any] = load_guard) -> str:
    with pytest.raises(SettingsError) as caught:
        load(files)
    return str(caught.value)


def line_with(text: str, key: str) -> str:
    """The one line of a refusal that speaks of `key`."""
    lines = [line for line in text.splitlines() if f": {key}: " in line]
    assert len(lines) == 1, text
    return lines[0]


def test_the_smallest_good_settings_load(tmp_path: Path) -> None:
    """Only what has no sensible default must be written."""
    settings, _ = load_guard([written(tmp_path, GOOD)])
    assert settings.pair.peer == "fs1b"
    assert settings.limits == Limits()
    assert settings.limits.policy() == Policy()


WITNESS_KEYS = 'site = "north"\n[keys]\nprivate = "/k/p.pem"\npublic_dir = "/k/public"\n'
ETCD = '[store]\nkind = "etcd"\nendpoints = ["http://127.0.0.1:2379", "http://[::1]:2379"]\n'


def test_a_store_in_etcd(tmp_path: Path) -> None:
    """Endpoints are enough on loopback; elsewhere TLS; a user with its password's file."""
    store = load_witness([written(tmp_path, WITNESS_KEYS + ETCD)])[0].store
    assert (store.kind, store.ttl, store.prefix, store.tls) == ("etcd", 10.0, None, None)
    far = ETCD.replace("http://127.0.0.1", "https://192.0.2.21").replace("http://[::1]", "https://[2001:db8::1]")
    more = (
        'user = "pairguard"\npassword_file = "/k/word"\nprefix = "/site/north"\nttl = "5s"\n[store.tls]\nca = "/k/ca"\n'
    )
    store = load_witness([written(tmp_path, WITNESS_KEYS + far + more)])[0].store
    assert (store.user, store.ttl, store.prefix) == ("pairguard", 5.0, "/site/north")
    assert load_witness([written(tmp_path, WITNESS_KEYS + '[store]\nkind = "sqlite"\n')])[0].store.kind == "sqlite"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[store]\nkind = "etcd"\n', "needs `endpoints`"),
        ('[store]\nprefix = "/p"\n', 'prefix: only with kind = "etcd"'),
        (ETCD + 'ttl = "2s"\n', "whole seconds from 3s to 60s"),
        (ETCD + 'ttl = "5.5s"\n', "whole seconds from 3s to 60s"),
        (ETCD + 'user = "x"\n', "both `user` and `password_file`"),
        (ETCD + 'prefix = "pairguard"\n', "write a path such as"),
        (ETCD + 'prefix = "/pairguard/"\n', "write a path such as"),
        (ETCD + '[store.tls]\nca = "/k/ca"\n', "https endpoints need"),
        (ETCD.replace("http:", "https:"), "https endpoints need"),
        (ETCD.replace("http:", "https:") + '[store.tls]\nca = "/k/ca"\nkey = "/k"\n', "both `certificate` and `key`"),
        (ETCD.replace("127.0.0.1", "192.0.2.21"), "only an etcd on loopback"),
        (ETCD.replace("127.0.0.1", "etcd.example"), "no name"),
        (ETCD.replace("127.0.0.1", "1.2.3"), "endpoints"),
        (ETCD.replace('kind = "etcd"', 'kind = "zookeeper"'), "store.kind"),
    ],
)
def test_a_store_that_cannot_be_is_refused(tmp_path: Path, text: str, word: str) -> None:
    """Nothing is guessed, and nothing goes in clear text over a network."""
    assert word in refusal(written(tmp_path, WITNESS_KEYS + text), load=load_witness)


def test_the_smallest_good_witness_settings_load(tmp_path: Path) -> None:
    """The witness needs a site and keys, and keeps its state apart from a guard's."""
    text = 'site = "north"\n[keys]\nprivate = "/k/p.pem"\npublic_dir = "/k/public"\n'
    settings, _ = load_witness([written(tmp_path, text)])
    assert settings.paths.state == Path("/var/lib/pairguard-witness")
    moved, _ = load_witness([written(tmp_path, text + '[paths]\nstate = "/srv/w"\n')])
    assert (moved.paths.state, moved.paths.run) == (Path("/srv/w"), Path("/run/pairguard-witness"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.3s", 0.3), ("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0), ("1h", 3600.0), ("1h1m1.5s", 3661.5)],
)
def test_durations_are_read_with_their_unit(text: str, expected: float) -> None:
    """`90s`, `10m`, `1h30m`: the words of the contract."""
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "90", "s", "1.5m", "-3s", "3 s", "10ms", "1m1h", "inf", "1d", 90, 0.3, None, True]
)
def test_a_duration_without_sense_is_refused(text: object) -> None:
    """A bare number has no unit, and is not taken for seconds."""
    with pytest.raises(ValueError, match="90s"):
        seconds(text)


@pytest.mark.parametrize(
    ("line", "key", "found", "allowed"),
    [
        ('bus = { kind = "mqt" }', "bus.kind", "'mqt'", "'mqtt' or 'hub'"),
        ("bus = { port = 70000 }", "bus.port", "70000", "65535"),
        ('bus = { port = "1883" }', "bus.port", "'1883'", "integer"),
        ('bus = "mqtt"', "bus", "'mqtt'", "table"),
        ("limits = { corr = 0.3 }", "limits.corr", "0.3", "90s"),
        ('limits = { alone_under_hold = "nevr" }', "limits.alone_under_hold", "'nevr'", "'never'"),
        ('paths = { state = "var/lib" }', "paths.state", "'var/lib'", "absolute path"),
        ('probe = { own = "fs1a", peer = "192.0.2.2" }', "probe.own", "'fs1a'", "IP"),
        ('log = { to = "syslog" }', "log.to", "'syslog'", "'journal'"),
        ('cluster = { kind = "command" }', "cluster", "", "command"),
        ('network = { silent_polls = "2" }', "network.silent_polls", "'2'", "integer"),
        ("network = { silent_polls = 0 }", "network.silent_polls", "0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_value_is_refused_with_file_key_found_and_allowed(
    tmp_path: Path, line: str, key: str, found: str, allowed: str
) -> None:
    """One line says all that is needed to mend it."""
    path = written(tmp_path, line + "\n" + GOOD)
    said = line_with(refusal(path), key)
    assert str(path) in said
    assert found in said
    assert allowed in said


@pytest.mark.parametrize(
    ("line", "key", "near"),
    [
        ('sight = "north"', "sight", "'site'"),
        ('limits = { cor = "0.3s" }', "limits.cor", "'corr'"),
        ('bus = { hots = "192.0.2.1" }', "bus.hots", "'host'"),
        ('network = { interface = ["bond0"] }', "network.interface", "'interfaces'"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_likely_spelling(tmp_path: Path, line: str, key: str, near: str) -> None:
    """A misspelt word never switches a protection off."""
    said = line_with(refusal(written(tmp_path, line + "\n" + GOOD)), key)
    assert f"did you mean {near}?" in said


def test_a_misspelt_key_in_a_named_table_is_found_too(tmp_path: Path) -> None:
    """Tables whose name is a node, and lists of tables, are checked like all others."""
    text = GOOD + 'timout = "20s"\n[[switch]]\nname = "agg1"\nhost = "192.0.2.9"\ncommunty_file = "/etc/x"\n'
    said = refusal(written(tmp_path, text))
    assert "did you mean 'timeout'?" in line_with(said, "fence.fs1b.timout")
    assert "did you mean 'community_file'?" in line_with(said, "switch (number 1).communty_file")


def test_a_key_far_from_all_others_is_answered_with_the_list(tmp_path: Path) -> None:
    """Whoever guesses is shown what there is."""
    said = line_with(refusal(written(tmp_path, "paths = { xyzzy = 1 }\n" + GOOD)), "paths.xyzzy")
    assert "known: run, state" in said


def test_a_missing_key_is_named_in_the_file_of_its_table(tmp_path: Path) -> None:
    """Nobody has to guess in which of many fragments a key belongs."""
    main = written(tmp_path, GOOD.replace('peer = "fs1b"\n', ""))
    other = written(tmp_path, '[log]\nto = "stderr"\n', "zz.toml")
    assert line_with(refusal(main, other), "pair.peer") == f"  {main}: pair.peer: this key is missing"


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """One start, one list: nobody mends ten faults in ten tries."""
    bad = GOOD.replace('site = "north"', 'sight = "north"').replace('"fs1a"', '"FS1A"').replace('["r0"]', "[]")
    said = refusal(written(tmp_path, bad))
    for key in ("site", "sight", "pair.node", "replication.resources"):
        line_with(said, key)
    assert "lower-case letters" in line_with(said, "pair.node")


def test_a_fault_names_the_fragment_it_came_from(tmp_path: Path) -> None:
    """Also where several fragments write in one table."""
    first = written(tmp_path, "limits = { corr = 1 }\n" + GOOD)
    second = written(tmp_path, '[limits]\nsettle = "soon"\n', "20.toml")
    said = refusal(first, second)
    assert str(first) in line_with(said, "limits.corr")
    assert str(second) in line_with(said, "limits.settle")


def test_a_value_of_a_fence_option_is_never_shown(tmp_path: Path) -> None:
    """It may be a password; logs are read by many."""
    text = GOOD.replace('lanplus = "1"', "password = 271828")
    said = refusal(written(tmp_path, text))
    assert "fence.fs1b.options.password" in said
    assert "271828" not in said


@pytest.mark.parametrize("text", ["", " \n\n\t\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    """A file that a full disk has emptied is not "all defaults"."""
    said = refusal(written(tmp_path, GOOD), written(tmp_path, text, "90.toml"))
    assert "90.toml" in said
    assert "empty" in said


def test_broken_toml_is_refused_with_its_place(tmp_path: Path) -> None:
    """File and line."""
    said = refusal(written(tmp_path, GOOD + "oops\n"))
    assert "pairguard.toml" in said
    assert f"line {len(GOOD.splitlines()) + 1}" in said


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    """An unreadable file is a fault, never nothing."""
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "binary.toml" in refusal(tmp_path / "binary.toml")
    assert "absent.toml" in refusal(tmp_path / "absent.toml")
    assert "cannot find any settings" in refusal()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('limits = { accept = "4s" }', ("accept must not exceed fire",)),
        ('limits = { beat = "0.7s" }', ("beat must be at most 0.5",)),
        ('limits = { heard = "0.8s" }', ("heard must cover at least two beats",)),
        ('limits = { corr = "1s", fire = "1s" }', ("corr must be below answer", "accept must not exceed fire")),
        ('limits = { sampling = "0s" }', ("sampling must be positive",)),
        ('limits = { agent_wait = "30s" }', ("fence.fs1b.timeout", "limits.agent_wait (30s) must be longer")),
        ('limits = { shot = "10s" }', ("fence.fs1b.timeout (20s)", "limits.shot (10s)")),
        ('limits = { shot = "60s" }', ("limits.shot (60s)", "limits.agent_wait (50s) must be longer")),
        ('limits = { shot = "36.2s" }', ("a shot may take 50s", "limits.agent_wait (50s) must be longer")),
    ],
)
def test_impossible_relations_are_refused(tmp_path: Path, more: str, words: tuple[str, ...]) -> None:
    """Two numbers that are fine by themselves may still make the protocol impossible."""
    said = line_with(refusal(written(tmp_path, more + "\n" + GOOD)), "settings that do not go together")
    for word in words:
        assert word in said


def test_relations_are_spoken_of_in_the_words_of_the_settings(tmp_path: Path) -> None:
    """The policy's own names (with their unit) are not what a person can write."""
    said = refusal(written(tmp_path, 'limits = { accept = "4s", beat = "0.7s", heard = "0.1s" }\n' + GOOD))
    assert "_s " not in said


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('peer = "fs1b"', 'peer = "fs1a"', "node and peer are the same"),
        ("[fence.fs1b]", "[fence.fs1a]", "add [fence.fs1b]"),
        ("[fence.fs1b]", '[fence.fs1x]\ndelegate = "fence_apc"\n[fence.fs1b]', "not of this pair: fs1x"),
        ('"fence_ipmilan"', '"ipmilan"', "fence_ipmilan"),
        (
            "[fence.fs1b]",
            '[[switch]]\nname = "agg1"\nhost = "192.0.2.9"\n[fence.fs1b]',
            "either `community_file` (v2c) or `user`",
        ),
        (
            "[fence.fs1b]",
            '[[switch]]\nname = "a"\nhost = "192.0.2.9"\ncommunity_file = "/c"\ntimeout = "1s"\n[fence.fs1b]',
            "timeout must be below poll",
        ),
        (
            "[fence.fs1b]",
            '[[switch]]\nname = "a"\nhost = "192.0.2.8"\ncommunity_file = "/c"\n' * 2 + "[fence.fs1b]",
            "two [[switch]] have one name: a",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, before: str, after: str, words: str) -> None:
    """A pair needs two nodes, a device for the peer, and switches that can be asked."""
    assert before in GOOD
    assert words in refusal(written(tmp_path, GOOD.replace(before, after)))


def test_the_witness_refuses_impossible_limits_too(tmp_path: Path) -> None:
    """Both sides build their policy from the same rules."""
    text = 'site = "n"\nlimits = { beat = "0.7s" }\n[keys]\nprivate = "/p"\npublic_dir = "/k"\n'
    assert "beat must be at most 0.5" in refusal(written(tmp_path, text), load=load_witness)


def test_a_later_fragment_wins_key_by_key(tmp_path: Path) -> None:
    """Tables are merged; what a later fragment does not mention stays."""
    first = written(tmp_path, 'limits = { settle = "2m", cold = "3m" }\n' + GOOD)
    second = written(tmp_path, '[limits]\nsettle = "5m"\n', "50.toml")
    settings, origin = load_guard([first, second])
    assert (settings.limits.settle, settings.limits.cold) == (300.0, 180.0)
    assert (origin.of("limits.settle"), origin.of("limits.cold")) == (second, first)


def test_a_later_list_replaces_the_earlier_one(tmp_path: Path) -> None:
    """Lists are not joined: who writes a list writes all of it."""
    first = written(tmp_path, GOOD)
    second = written(tmp_path, '[replication]\nresources = ["r1", "r2"]\n', "50.toml")
    settings, _ = load_guard([first, second])
    assert settings.replication.resources == ("r1", "r2")


def test_fragments_come_in_the_order_of_the_contract(tmp_path: Path) -> None:
    """Vendor, then the administrator, then what lasts until the next boot; by name within a folder."""
    vendor, etc, run = tmp_path / "vendor", tmp_path / "etc", tmp_path / "run"
    expected = [
        written(vendor, GOOD, "10.toml"),
        written(vendor, GOOD, "20.toml"),
        written(etc, GOOD, "pairguard.toml"),
        written(etc / "conf.d", GOOD, "05.toml"),
        written(run, GOOD, "01.toml"),
    ]
    written(etc, GOOD, "witness.toml")
    written(etc / "conf.d", GOOD, "README")
    assert list(fragments_of("pairguard", vendor, etc, run)) == expected
    assert etc / "witness.toml" in fragments_of("witness", vendor, etc, run)


def test_a_fragment_for_one_program_does_not_stop_the_other(tmp_path: Path) -> None:
    """conf.d is for both; conf.d/guard and conf.d/witness for one of them, and they have the last word."""
    vendor, etc, run = tmp_path / "vendor", tmp_path / "etc", tmp_path / "run"
    written(etc, GOOD)
    written(etc, WITNESS, "witness.toml")
    both = written(etc / "conf.d", '[limits]\nsettle = "70s"\n', "10.toml")
    guards = written(etc / "conf.d" / "guard", '[network]\nsilent_polls = 3\n[limits]\nsettle = "80s"\n', "05.toml")
    theirs = written(etc / "conf.d" / "witness", '[paths]\nstate = "/srv/witness"\n', "05.toml")
    own = fragments_of("pairguard", vendor, etc, run)
    of_witness = fragments_of("witness", vendor, etc, run)
    assert list(own) == [etc / "pairguard.toml", both, guards]
    assert list(of_witness) == [etc / "witness.toml", both, theirs]
    guard, witness = load_guard(own)[0], load_witness(of_witness)[0]
    assert (guard.limits.settle, guard.network.silent_polls, guard.paths.state) == (80.0, 3, Path("/var/lib/pairguard"))
    assert (witness.limits.settle, witness.paths.state) == (70.0, Path("/srv/witness"))
    guards.rename(etc / "conf.d" / "20.toml")
    said = refusal(*fragments_of("witness", vendor, etc, run), load=load_witness)
    assert f"{etc}/conf.d/20.toml: network" in said
    assert "conf.d/guard" in said


def test_durations_are_written_as_they_are_read() -> None:
    """`written` is the other direction of `seconds`, also for days and for milliseconds."""
    for value in (0.05, 0.3, 1.0, 90.0, 880.0, 1e6, 31 * 86400.0):
        assert seconds(duration(value)) == value


def test_a_link_that_leads_nowhere_stops_the_start(tmp_path: Path) -> None:
    """A fragment that cannot be read is never skipped."""
    written(tmp_path / "etc", GOOD)
    (tmp_path / "etc" / "conf.d").mkdir()
    (tmp_path / "etc" / "conf.d" / "limits.toml").symlink_to(tmp_path / "gone")
    files = fragments_of("pairguard", tmp_path / "none", tmp_path / "etc", tmp_path / "none")
    assert "limits.toml" in refusal(*files)


def test_simulated_surroundings_cannot_be_named(tmp_path: Path) -> None:
    """The sandbox is not reachable from settings: no word of theirs makes a guard that only plays."""
    for line in ('cluster = { kind = "simulated" }', "simulate = true", "sandbox = true", 'bus = { kind = "fake" }'):
        refusal(written(tmp_path, line + "\n" + GOOD))


def test_the_limits_hold_every_default_of_the_policy() -> None:
    """A limit's default stands in one place, and the settings repeat it faithfully."""
    assert Limits().policy() == Policy()
    assert Fence(delegate="fence_x").timeout == Limits().shot
    assert Limits().agent_wait == WAIT_S, "the agent's own default wait"
    parameters = set(inspect.signature(Policy).parameters)
    own = {"ask_s_min", "readback_gap_s", "readback_gap_alone_s", "handler_retry_s_min", "handler_retry_s_max"}
    own |= {"whole_answer_s", "replication_settle_s", "yield_s"}  # measured facts and fixed promises: no settings
    settable = {f"{name}_s" for name in Limits.model_fields if name != "agent_wait"}
    assert settable == parameters - own

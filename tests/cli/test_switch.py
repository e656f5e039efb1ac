"""`switch probe`: a switch shows itself, as a table and as JSON, from recordings of real ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.adapters.test_snmp import Reply, agent, recording, serving
from tests.cli.desk import fits, one_object, pairguard, write_settings


@contextmanager
def answering(reply: Reply) -> Iterator[int]:
    """The port of an agent in a thread of its own."""
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), [0]
    stop = asyncio.Event()

    async def serve() -> None:
        async with agent(reply) as (found, _):
            port[0] = found
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(20)
    try:
        yield port[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


def community(folder: Path) -> str:
    file = folder / "community"
    file.write_text("public\n")
    file.chmod(0o600)
    return str(file)


def test_a_real_switch_shows_itself(folder: Path) -> None:
    """HPE's recording: description, uptime, ports with their ifIndex and spanning-tree state."""
    with answering(serving(recording("hpe-procurve-6120xg"))) as port:
        words = ("127.0.0.1", "--port", str(port), "--community-file", community(folder), "--deadline", "1m")
        done = pairguard("switch", "probe", *words, "--json")
        text = pairguard("switch", "probe", *words)
    assert (done.exit_code, text.exit_code) == (0, 0)
    found = one_object(done, "pairguard.switch-probe/1")
    assert found["uptime_s"] is not None
    assert found["ports"]
    assert list(found["ports"][0]) == ["ifindex", "name", "oper", "lag", "member_of", "stp"]
    assert found["mlag"]["observable"] is False
    assert {port["oper"] for port in found["ports"]} <= {"up", "down", "notPresent", "lowerLayerDown", None}
    fits(text.stdout)
    assert "not observable, which is not the same as fine" in " ".join(text.stdout.split())


def test_a_switch_of_the_settings_is_asked_with_its_own_credentials(folder: Path) -> None:
    """By its name; another name is 84."""
    with answering(serving(recording("cisco-nxos-n5548-t1"))) as port:
        more = f'[[switch]]\nname = "agg1"\nhost = "127.0.0.1"\nport = {port}\ntimeout = "0.9s"\n'
        config = write_settings(folder, keys=False, more=f'{more}community_file = "{community(folder)}"\n')
        done = pairguard("switch", "probe", "agg1", "--json", "--deadline", "1m", config=config)
        assert pairguard("switch", "probe", "agg2", config=config).exit_code == 84
    assert done.exit_code == 0
    assert one_object(done, "pairguard.switch-probe/1")["profile"] == "generic"


def test_a_silent_switch_is_85_in_time(folder: Path) -> None:
    """Nobody answers there."""
    with answering(lambda _: []) as port:
        words = ("--port", str(port), "--community-file", community(folder), "--deadline", "30s")
        done = pairguard("switch", "probe", "127.0.0.1", *words)
    assert done.exit_code == 85
    fits(done.stderr)


def test_the_deadline_bounds_everything(folder: Path) -> None:
    """A switch that answers each question late is given up."""
    with answering(lambda _: []) as port:
        words = ("--port", str(port), "--community-file", community(folder), "--deadline", "0.1s")
        done = pairguard("switch", "probe", "127.0.0.1", *words)
    assert done.exit_code == 85
    assert "--deadline" in done.stderr


def test_a_name_or_an_open_secret_is_refused(folder: Path) -> None:
    """Names are not resolved; a community that others can read is 89."""
    file = community(folder)
    assert pairguard("switch", "probe", "agg1.example", "--community-file", file).exit_code == 89
    Path(file).chmod(0o644)
    assert pairguard("switch", "probe", "127.0.0.1", "--community-file", file).exit_code == 89

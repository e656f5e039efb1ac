"""What `fence_pairguard` says of itself: the metadata that Pacemaker and pcs read, and the help for people."""

from __future__ import annotations

from html import escape

from fencing.client import SOCKET

WAIT_S = 50  # ends by itself inside Pacemaker's default fencing-timeout, 60 s (pacemaker-fenced(7), pcmk_off_timeout)
ACTIONS = ("off", "reboot", "on", "status", "monitor", "list", "metadata", "validate-all")

ABOUT = """\
fence_pairguard powers a node off only while a majority has agreed that its peer goes on. It is a thin client of the
guard (pairguardd) on this node: the guard asks the arbiter for a right, runs the real fence agent named by
"delegate" once, and reads the power back twice in fresh device sessions. Exit 0 means: seen off. Anything else,
also "nobody knows", is 1.

It blocks while the answer may still change (a network change is announced or seen, the peer answers, the arbiter is
away) and gives up with 1 ten seconds before wait_s. Without a guard nothing is fenced.

Let it wait for as long as a network change may take: set pcmk_off_timeout and pcmk_reboot_timeout of this device to at
least wait_s + 10 s. wait_s defaults to 50, which fits Pacemaker's own default of 60 s; 880 with a timeout of 900s is a
good choice for real work.

"reboot" is "off", confirmed, then one "on" as best effort.

During an announced change the sitting primary has won beforehand: until the change is closed no switchover; a
promotion of the peer is answered lost. Close the change first, then switch over."""

_PARAMETERS = (  # name, attributes, getopt, content type, default, description
    ("action", 'required="1"', "-o, --action=[action]", "string", None, "What to do; there is no default"),
    ("delegate", 'required="0"', "--delegate=[device]", "string", None,
     "Fence device of the guard's settings that really switches the power; unset: the one of that node"),
    ("nodename", 'required="0"', "--nodename=[name]", "string", None, "Node, as Pacemaker names it; port goes first"),
    ("plug", 'required="0" obsoletes="port"', "-n, --plug=[name]", "string", None, "Node to switch"),
    ("port", 'required="0" deprecated="1"', "-n, --plug=[name]", "string", None, "Node to switch"),
    ("socket", 'required="0"', "--socket=[path]", "string", SOCKET, "Control socket of the guard"),
    ("wait_s", 'required="0"', "--wait-s=[seconds]", "second", str(WAIT_S),
     "How long to wait for an answer, in seconds; keep it 10 s below pcmk_off_timeout and pcmk_reboot_timeout"),
)  # fmt: skip

_NOT_BY_ITSELF = {"on": ' automatic="0"'}  # Pacemaker does not unfence with this device

HELP = f"""\
fence_pairguard: asks this node's guard to power a node off (a ClusterLabs fence agent).

  fence_pairguard --action ACTION --plug NODE [--delegate DEVICE] [--wait-s SECONDS] [--socket PATH]
  Without options it reads the same as key=value lines from standard input, as Pacemaker does.

  ACTION is one of {", ".join(ACTIONS)}.
  Exit: 0 done and verified, 1 not done or not known, 2 (status only) the node is off.

{ABOUT}"""


def metadata() -> str:
    """The agent's metadata, valid by fence-agents' own `metadata.rng`."""
    parameters = "".join(_parameter(*row) for row in _PARAMETERS)
    actions = "".join(f'\t<action name="{name}"{_NOT_BY_ITSELF.get(name, "")} />\n' for name in ACTIONS)
    return (
        '<?xml version="1.0" ?>\n'
        '<resource-agent name="fence_pairguard" '
        'shortdesc="Fence agent that asks a majority before it lets the real agent fire">\n'
        f"<longdesc>{escape(ABOUT)}</longdesc>\n"
        "<vendor-url></vendor-url>\n"
        f"<parameters>\n{parameters}</parameters>\n"
        f"<actions>\n{actions}</actions>\n"
        "</resource-agent>"
    )


def _parameter(name: str, attributes: str, getopt: str, kind: str, default: str | None, text: str) -> str:
    default_xml = "" if default is None else f' default="{escape(default)}"'
    return (
        f'\t<parameter name="{name}" unique="0" {attributes}>\n'
        f'\t\t<getopt mixed="{escape(getopt)}" />\n'
        f'\t\t<content type="{kind}"{default_xml} />\n'
        f'\t\t<shortdesc lang="en">{escape(text)}</shortdesc>\n'
        "\t</parameter>\n"
    )

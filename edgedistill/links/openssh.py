"""What OpenSSH is told, whatever the user's configuration says beside it, and what its complaints mean."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from edgedistill.errors import InputError, StageError

CONFIG = "EDGEDISTILL_SSH_CONFIG"
"""The environment variable that names another configuration file than the user's own, as `ssh -F` does."""
ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]{0,31})@)?"
    r"(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]{0,252})|\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
"""No letter in it means anything to a shell or to ssh. A name in the user's ssh configuration is a host, too."""
LAST_PORT = 65535
SHOWN = 60
LAST_WORDS = 300
CONNECT_S = 15
KEPT_S = 600
"""How long a connection stays when the process that made it was killed and could not close it."""
SETTINGS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",  # what `ask` is where nobody can be asked: nothing unknown is ever accepted
    "NoHostAuthenticationForLocalhost": "no",
    "UpdateHostKeys": "no",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
    "ConnectTimeout": str(CONNECT_S),
    "ServerAliveInterval": "10",  # a cut link is noticed after half a minute, at the price of a packet in ten seconds
    "ServerAliveCountMax": "3",
    "ControlPersist": str(KEPT_S),
}
LOOK_AT_THE_KEY = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A host as ssh knows it. What is None is left to the user's configuration."""

    host: str
    user: str | None
    port: str | None

    @property
    def argv(self) -> list[str]:
        """The end of a command line of ssh."""
        user = [] if self.user is None else ["-l", self.user]
        port = [] if self.port is None else ["-p", self.port]
        return [*user, *port, "--", self.host]

    @property
    def typed(self) -> str:
        """The command with which a user gets there by hand."""
        port = "" if self.port is None else f"-p {self.port} "
        return f"ssh {port}{'' if self.user is None else self.user + '@'}{self.host}"


def target(address: str) -> Target:
    """The host of an address.

    Raises:
        InputError: the address holds what cannot be the name of a user or a host. Nothing was started.
    """
    found = ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"] or 1) <= LAST_PORT:
        raise InputError(
            f"{address[:SHOWN]!r} is no address for ssh",
            hint="ssh://user@host:port, of letters, digits, dots, dashes and underscores; all else, such as a key or "
            "a jump host, stands in ~/.ssh/config under a name that can be written here",
        )
    return Target(host=found["host"] or found["ipv6"], user=found["user"], port=found["port"])


def settings() -> list[str]:
    """Options for the one command that connects. They win over the user's configuration."""
    given = os.environ.get(CONFIG)
    return [*(["-F", given] if given else []), *(part for pair in SETTINGS.items() for part in ("-o", "=".join(pair)))]


def borrowed(socket: str) -> list[str]:
    """Options for a command that goes through the connection behind a socket, or nowhere: it never makes its own."""
    return ["-F", "none", "-o", f"ControlPath={socket}", "-o", "ProxyCommand=false", "-o", "BatchMode=yes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Complaint:
    words: str
    means: str
    remedy: str
    passing: bool = False


_COMPLAINTS = (
    _Complaint(
        words="REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* has changed",
        means="shows another host key than the one that {known} holds for it",
        remedy=f"another machine may be answering in its place. If the device was set up anew, run `{LOOK_AT_THE_KEY}` "
        "at the device itself, compare, and only then take the old line out of that file and connect once by hand: "
        "{typed}",
    ),
    _Complaint(
        words="host key is known for|Host key verification failed",
        means="is not known yet: no line of your known_hosts has its host key",
        remedy=f"connect once by hand, `{{typed}}`, and compare the fingerprint with what `{LOOK_AT_THE_KEY}` "
        "prints at the device",
    ),
    _Complaint(
        words="Permission denied",
        means="does not let this user in with any of the keys here",
        remedy="try `{typed}`; ssh-copy-id brings your key there, and ssh-add opens one that has a passphrase",
    ),
    _Complaint(
        words="Could not resolve hostname",
        means="has a name that stands for no address",
        remedy="check the name, or write the address; a board is often found as NAME.local",
    ),
    _Complaint(
        words="Connection refused",
        means="answers, but nothing listens on that port",
        remedy="switch ssh on there (sudo systemctl enable --now ssh), or give the port: ssh://user@host:port",
        passing=True,
    ),
    _Complaint(
        words="No route to host|Network is unreachable|Host is down",
        means="cannot be reached from this network",
        remedy="is it switched on, and in the same network?",
        passing=True,
    ),
    _Complaint(
        words="timed out|Timeout",
        means="did not answer in time",
        remedy="is it switched on, and in the same network? A firewall may drop what it does not like",
        passing=True,
    ),
    _Complaint(
        words="Connection reset|Connection closed|kex_exchange_identification|Broken pipe",
        means="closed the connection before it was made",
        remedy="try `{typed}`; its log says why: sudo journalctl -u ssh",
        passing=True,
    ),
)


class Unreachable(StageError):
    """No connection was made. `passing` says that another try may find it otherwise."""

    def __init__(self, message: str, *, hint: str, passing: bool) -> None:
        super().__init__(message, hint=hint)
        self.passing = passing


def explained(complaint: str, target: Target) -> Unreachable:
    """What ssh printed when it could not connect, as what it means and what to do."""
    last = " ".join(complaint.split())[-LAST_WORDS:]
    for known in _COMPLAINTS:
        if re.search(known.words, complaint):
            # The bypass that some versions print, a command that takes the key's line out, is not passed on.
            where = re.search(r"Offending \S+ key in (\S+)", complaint)
            means = known.means.format(known="known_hosts" if where is None else where[1])
            hint = known.remedy.format(typed=target.typed)
            return Unreachable(f"{target.host} {means}", hint=hint, passing=known.passing)
    return Unreachable(f"ssh could not reach {target.host}: {last}", hint=f"try `{target.typed}`", passing=False)

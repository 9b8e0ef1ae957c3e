"""Options of ``actune serve``."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from cyclopts import Parameter

from actune.errors import UserError, either
from actune.say import read_actions


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where the server listens and who may use it."""

    host: str = "127.0.0.1"
    """Address to listen at; another one than this machine's own needs a key."""
    port: int = 8765
    """Port to listen at; 0 takes a free one."""
    api_key: str = ""
    """Key that clients must send; better in the variable ACTUNE_API_KEY, where other users do not see it."""
    open: bool = False
    """Let everybody in who can reach the address, without a key."""
    cors: tuple[str, ...] = ()
    """Web origins whose pages may call, such as https://example.org."""

    def checked(self) -> Where:
        """Return this with the key, if it may be served like that.

        Raises:
            UserError: Others could use it without a key, or the port is none.
        """
        from actune.serve.guard import is_loopback

        key = self.api_key or os.environ.get("ACTUNE_API_KEY", "")
        if not 0 <= self.port < 65536:
            raise UserError("--port", str(self.port), "0 .. 65535", either("choose another", "换一个"))
        if not is_loopback(self.host) and not key and not self.open:
            raise UserError(
                f"--host {self.host}",
                either("others can reach this address, and there is no key", "其他人可以访问此地址, 且没有密钥"),
                either("a key, or your word that everybody may", "设置密钥, 或明确允许所有人"),
                either("set ACTUNE_API_KEY, or add --open", "设置 ACTUNE_API_KEY, 或加 --open"),
            )
        return replace(self, api_key=key)


@Parameter(name="*")
@dataclass(frozen=True)
class Load:
    """How much the server takes on."""

    max_batch: int = 16
    """Answers written together."""
    max_queue: int = 64
    """Questions that may wait; one more is refused with 429."""
    timeout: float = 120.0
    """Seconds an answer may take, waiting included."""

    def checked(self) -> Load:
        """Return this if its numbers are possible.

        Raises:
            UserError: Some are not.
        """
        if self.max_batch < 1 or self.max_queue < 1 or not self.timeout > 0:
            got = f"{self.max_batch}, {self.max_queue}, {self.timeout}"
            raise UserError("--max-batch, --max-queue, --timeout", got, "> 0", either("change them", "修改它们"))
        return self


@Parameter(name="*")
@dataclass(frozen=True)
class Runtimes:
    """Runtimes whose bodies perform the answers. (Those that ask by themselves need nothing here.)"""

    fay: str = ""
    """Stand in for Fay: bodies made for it connect here, such as :10002."""
    livetalking: str = ""
    """Forward answers to LiveTalking at this URL; a question's session is its sessionid."""
    clips: str = ""
    """Numbers of LiveTalking's clips: NAME=NUMBER joined by 、 or @FILE with one a line."""

    def checked(self, where: Where) -> Runtimes:
        """Return this if it can be.

        Raises:
            UserError: It cannot.
        """
        self.numbers()
        if self.fay:
            host, _ = self.fay_address(where.host)
            replace(where, host=host).checked()
        if self.livetalking and not self.livetalking.startswith(("http://", "https://")):
            wanted = either("http:// or https:// and the address", "http:// 或 https:// 加地址")
            raise UserError("--livetalking", self.livetalking, wanted, either("correct it", "修改它"))
        return self

    def fay_address(self, host: str) -> tuple[str, int]:
        """Return host and port of Fay's stand-in; the server's host where none is named.

        Raises:
            UserError: The port is none.
        """
        given, _, port = self.fay.rpartition(":")
        if not port.isdecimal() or not 0 <= int(port) < 65536:
            raise UserError("--fay", self.fay, ":10002", either("give a port", "给出端口"))
        return given.strip("[]") or host, int(port)

    def numbers(self) -> dict[str, int]:
        """Return the clip's number of each action.

        Raises:
            UserError: An entry is not NAME=NUMBER.
        """
        clips = {}
        for entry in read_actions(self.clips):
            name, _, number = entry.rpartition("=")
            if not name.strip() or not number.strip().isdecimal():
                raise UserError("--clips", entry, "NAME=NUMBER", either("correct it", "修改它"))
            clips[name.strip()] = int(number)
        return clips

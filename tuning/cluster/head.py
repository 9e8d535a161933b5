"""Whether the head of a Ray cluster answers. Ray itself would try for minutes, without a plain message."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from kobert_core.errors import InputError

SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 4.0, 5.0
_IS_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""Ray's own call to a head; an empty message names no node."""


def named_address(option: str | None) -> tuple[str | None, str]:
    """The address of the cluster to join, None to start one here; and where the address is from."""
    variable = os.environ.get("RAY_ADDRESS")
    address = variable if variable and option in (None, "auto") else option
    return (
        None if address == "local" else address
    ), f"{'--address ' if address == option else 'RAY_ADDRESS='}{address}"


def starts_here(option: str | None) -> bool:
    """Whether a new Ray is started here."""
    return named_address(option)[0] is None


def check_head(address: str, *, where: str) -> None:
    """Ask the head of a cluster, with the token that Ray would send, whether it is there.

    Args:
        address: `auto` or HOST:PORT.
        where: What to name in an error.

    Raises:
        InputError: this is no such address, nobody answers there in some seconds, or the token is not the cluster's.
    """
    if "://" in address:
        raise InputError(
            "Ray client addresses are not supported"
            if address.startswith("ray://")
            else "this is not the address of a head, but that of a web page or a job server",
            where=where,
            fix="give `auto` or HOST:6379 on a machine of the cluster; from elsewhere, use `kobert-tune submit`",
        )
    if address == "auto":
        found = _running_here(where)
        if found is None:
            return
        address = found
    match = re.fullmatch(r"\[?([^\s\[\]/]+?)\]?:(\d{1,5})", address)
    if match is None or not 0 < int(match[2]) < 2**16:
        raise InputError("this is not the address of a head", where=where, fix="give `auto` or HOST:6379")
    try:
        socket.create_connection((match[1], int(match[2])), timeout=SECONDS_TO_CONNECT).close()
    except OSError as error:  # a name that is not known is one, too
        raise _unreachable(error.strerror or str(error), where) from error
    _ask(address, where)


def _running_here(where: str) -> str | None:
    """The address that `auto` stands for on this machine; None where only Ray itself can tell."""
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:  # of another release: then Ray says it, later
        return None
    try:
        return canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError, OSError) as error:
        raise InputError(
            "no Ray runs on this machine",
            where=where,
            fix="give HOST:6379, or leave `--address` out: then one is started here",
        ) from error


def _ask(address: str, where: str) -> None:
    import grpc

    token = _token()
    header = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(_IS_ALIVE, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=SECONDS_TO_ANSWER, metadata=header)
        except grpc.RpcError as error:
            code, status = error.code(), grpc.StatusCode
            if code is status.UNAUTHENTICATED and not _by_other_means():
                raise refused_token(where, gave_one=bool(token)) from error
            if code is status.DEADLINE_EXCEEDED:
                raise _unreachable("it does not answer", where) from error
            if code is status.UNAVAILABLE:
                raise _unreachable("what listens there is no Ray", where) from error


def refused_token(where: str, *, gave_one: bool) -> InputError:
    """The error when the cluster wants a token, or another one."""
    return InputError(
        "the cluster has another token than this machine" if gave_one else "the cluster asks for a token",
        where=where,
        fix="set RAY_AUTH_MODE=token, and have the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token",
    )


def _unreachable(reason: str, where: str) -> InputError:
    fix = "see `ray status` there" + (", or unset RAY_ADDRESS" if where.startswith("RAY_ADDRESS") else "")
    return InputError(f"no Ray cluster can be reached ({reason})", where=where, fix=fix)


def _token() -> str | None:
    """The token that Ray would send, from the environment or a file."""
    if _by_other_means():
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    try:
        home = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        return home.read_text(encoding="utf-8").strip() or None
    except (OSError, RuntimeError, UnicodeDecodeError):
        return None


def _by_other_means() -> bool:
    """Whether Ray is told to authenticate by other means than a token."""
    return os.environ.get("RAY_AUTH_MODE", "token").lower() not in ("token", "disabled")

"""etcd through its JSON gateway (`guard.ports.Etcd`): transactions and leases, over one or more members.

1. What may have been carried out is `Unsure`, never a plain failure; a request that may have arrived is never repeated.
2. What is read is linearizable. A transaction that only compares has no range of its own, and etcd lets any member
   answer it from what that member has (`isTxnSerializable`, v3_server.go, is true of nothing): so one is always added.
3. A token that ended makes even `authenticate` fail while it is sent along (seen on 3.4.23): it is dropped first.
4. No name is resolved: members are named by address.

5. "No space" is also said of what was carried out (measured on 3.4.23): what is there decides which of the two it was.

The gateway ignores fields that it does not know and leaves out what is zero or false; numbers are strings.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from guard.errors import Unavailable, Unreadable, Unsure
from guard.ports import Compare, Done, Put, Range, Row

CONNECT_S_MAX = 1.0
NOT_DONE = (  # what etcd says before it changes anything (api/v3rpc/rpctypes/error.go)
    "too many requests",
    "request is too large",
    "too many operations in txn request",
    "permission denied",
    "invalid auth token",
    "revision of auth store is old",
    "user name is empty",
    "authentication failed, invalid user ID or password",
    "authentication is not enabled",
    "requested lease not found",
)
LOG_IN = ("invalid auth token", "revision of auth store is old", "user name is empty")
FULL = "mvcc: database space exceeded"  # also of what it carried out: quotaApplierV3, server/etcdserver/apply.go
NO_LEASE = "requested lease not found"


class EtcdGateway:
    """`guard.ports.Etcd`. `endpoints`: base addresses of members; the one that answered last is asked first."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        self._endpoints = list(endpoints)
        self._login, self._token = login, ""
        self._named = {"sni_hostname": server_name} if server_name is not None else {}
        trust = tls if tls is not None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without TLS: trusts nobody
        self._http = httpx.AsyncClient(verify=trust, trust_env=False, limits=httpx.Limits(max_connections=8))

    async def transact(
        self, compares: Sequence[Compare], puts: Sequence[Put] = (), ranges: Sequence[Range] = (), *, deadline_s: float
    ) -> Done:
        try:
            return done_of(await self._ask("/v3/kv/txn", transaction(compares, puts, ranges), deadline_s))
        except Unsure as error:
            if not (error.why.endswith(FULL) and would_show(compares, puts)):
                raise
            full = error
        # It was answered, so nothing of it is under way any more: what is there now tells whether it was carried out.
        try:
            undone = (await self.transact(compares, deadline_s=deadline_s)).succeeded
        except (Unavailable, Unreadable):
            undone = False
        if undone:
            raise Unavailable(
                "cannot write to etcd", full.why, "free space, then: etcdctl defrag; etcdctl alarm disarm"
            )
        raise full

    async def grant(self, ttl_s: int, *, deadline_s: float) -> int:
        answer = await self._ask("/v3/lease/grant", {"TTL": str(ttl_s)}, deadline_s)
        if _number(answer, "TTL") < ttl_s:
            raise Unreadable("cannot use etcd's lease", f"it is shorter than the {ttl_s} s that were asked for")
        return _number(answer, "ID")

    async def keep(self, lease: int, *, deadline_s: float) -> bool:
        answer = await self._ask("/v3/lease/keepalive", {"ID": str(lease)}, deadline_s)
        result = answer.get("result")
        if not isinstance(result, dict) or _number(result, "ID") != lease:
            raise Unreadable("cannot read etcd's answer", "it names no lease of ours")
        return _number(result, "TTL", 0) > 0

    async def revoke(self, lease: int, *, deadline_s: float) -> None:
        try:
            await self._ask("/v3/lease/revoke", {"ID": str(lease)}, deadline_s)
        except Unavailable as error:
            if NO_LEASE not in error.why:
                raise

    async def close(self) -> None:
        await self._http.aclose()

    # ---- one request

    async def _ask(self, path: str, body: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """One answer. `Unavailable`: it was certainly not carried out; `Unsure`: nobody knows."""
        first = self._endpoints[0]
        try:
            async with asyncio.timeout(deadline_s):
                if self._login is not None and not self._token:
                    await self._log_in()
                try:
                    return await self._post(path, body)
                except Unavailable as error:
                    if self._login is None or isinstance(error, Unsure) or not error.why.endswith(LOG_IN):
                        raise
                await self._log_in()
                return await self._post(path, body)
        except TimeoutError as error:
            self._not(first)
            raise Unsure("cannot tell what etcd did", f"no answer within {deadline_s:g} s", _NEXT) from error

    async def _log_in(self) -> None:
        self._token = ""
        name, password = self._login or ("", "")
        token = (await self._post("/v3/auth/authenticate", {"name": name, "password": password})).get("token")
        if not isinstance(token, str) or not token:
            raise Unreadable("cannot log in to etcd", "its answer has no token")
        self._token = token

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": self._token} if self._token else {}
        refused = ""
        for _ in range(len(self._endpoints)):
            endpoint = self._endpoints[0]
            try:
                answer = await self._http.post(
                    endpoint + path,
                    json=body,
                    headers=headers,
                    extensions=dict(self._named),
                    timeout=httpx.Timeout(None, connect=CONNECT_S_MAX),
                )
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:  # nothing was sent
                refused = str(error).strip() or "no answer in time"
                self._not(endpoint)
                continue
            except httpx.HTTPError as error:
                self._not(endpoint)
                raise Unsure("cannot tell what etcd did", f"the connection broke: {error}", _NEXT) from error
            return self._read(answer, endpoint)
        raise Unavailable(f"cannot reach etcd at {', '.join(sorted(self._endpoints))}", refused, _NEXT)

    def _not(self, endpoint: str) -> None:
        """The next request goes to another member, unless one was chosen already."""
        if self._endpoints[0] == endpoint:
            self._endpoints.append(self._endpoints.pop(0))

    def _read(self, answer: httpx.Response, endpoint: str) -> dict[str, Any]:
        try:
            content = json.loads(answer.content)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            if answer.status_code == httpx.codes.BAD_REQUEST and b"CommonName" in answer.content:
                raise Unavailable(  # etcd-io/etcd PR #10366
                    "cannot use etcd with this certificate",
                    "its gateway refuses a client certificate that has a CN while auth is on",
                    "make one with a SAN alone",
                )
            raise Unsure("cannot read etcd's answer", f"status {answer.status_code}, and no JSON object", _NEXT)
        if answer.status_code == httpx.codes.OK and "error" not in content:
            return content
        said = content.get("message") or content.get("error")
        said = said.get("message", "") if isinstance(said, dict) else str(said)
        if any(said.endswith(known) for known in NOT_DONE):
            raise Unavailable("cannot use etcd", said, _NEXT)
        self._not(endpoint)
        raise Unsure("cannot tell what etcd did", said or f"status {answer.status_code}", _NEXT)


_NEXT = "run: etcdctl endpoint status --cluster"


# ------------------------------------------------------------------ what is said, what is read; pure


def transaction(compares: Sequence[Compare], puts: Sequence[Put], ranges: Sequence[Range]) -> dict[str, Any]:
    """The body of `/v3/kv/txn`. Law 2: without a put it reads the first compared key, linearizably."""
    if not puts and not ranges:
        ranges = (Range(compares[0].key),)
    named = {"created": ("CREATE", "create_revision"), "modified": ("MOD", "mod_revision")}
    return {
        "compare": [
            {"key": _b64(c.key), "result": "EQUAL", "target": named[c.what][0], named[c.what][1]: str(c.revision)}
            for c in compares
        ],
        "success": [
            *({"request_put": {"key": _b64(p.key), "value": _b64(p.value), "lease": str(p.lease)}} for p in puts),
            *({"request_range": _range(each)} for each in ranges),
        ],
    }


def would_show(compares: Sequence[Compare], puts: Sequence[Put]) -> bool:
    """Once this was carried out, one of its own comparisons holds no more."""
    keys = {put.key for put in puts}
    return any(each.key in keys and (each.what == "modified" or each.revision == 0) for each in compares)


def _range(asked: Range) -> dict[str, Any]:
    found: dict[str, Any] = {"key": _b64(asked.key), "limit": str(asked.limit)}
    return {**found, "range_end": _b64(asked.end)} if asked.end else found


def done_of(answer: Mapping[str, Any]) -> Done:
    """`Unreadable` for anything that is no answer to a transaction."""
    header = answer.get("header")
    if not isinstance(header, dict):
        raise Unreadable("cannot read etcd's answer", "it has no header")
    rows = []
    for each in _list(answer, "responses"):
        rows.append(tuple(_row(kv) for kv in _list(_table(each, "response_range"), "kvs")))
    ok = answer.get("succeeded", False)
    if not isinstance(ok, bool):
        raise Unreadable("cannot read etcd's answer", f"succeeded is {ok!r}")
    return Done(ok, _number(header, "revision"), str(_number(header, "cluster_id")), tuple(rows))


def _row(kv: object) -> Row:
    if not isinstance(kv, dict):
        raise Unreadable("cannot read etcd's answer", "a row is no object")
    key, value = _text(kv.get("key", "")), _text(kv.get("value", ""))
    return Row(key, value, _number(kv, "create_revision"), _number(kv, "mod_revision"))


def _table(value: object, name: str) -> Mapping[str, Any]:
    found = value.get(name, {}) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise Unreadable("cannot read etcd's answer", f"{name} is no object")
    return found


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(name, [])
    if not isinstance(found, list):
        raise Unreadable("cannot read etcd's answer", f"{name} is no list")
    return found


def _number(value: Mapping[str, Any], name: str, default: int | None = None) -> int:
    found = value.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise Unreadable("cannot read etcd's answer", f"{name} is missing or no number")
    try:
        return int(found)
    except ValueError as error:
        raise Unreadable("cannot read etcd's answer", f"{name} is no number") from error


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(value: object) -> str:
    try:
        return base64.b64decode(value, validate=True).decode() if isinstance(value, str) else _no_text()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Unreadable("cannot read etcd's answer", "a key or value is no text") from error


def _no_text() -> str:
    raise Unreadable("cannot read etcd's answer", "a key or value is no text")

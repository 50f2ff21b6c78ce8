"""The Kubernetes API over HTTP: a cluster's, or the embedded server's.

    call --deadline--> attempt --429, 503, broken connection--> wait, attempt again
                               --anything else--> the object, or the typed error

Two pools of connections: short calls share a bounded number of kept-alive ones, watches have their own, so that twenty
informers never starve a scale patch. Every call has a deadline that covers its retries. A call is repeated only if that
cannot do harm: when the server said that it did nothing (429), when the connection was never made, or when doing it
twice is the same as doing it once. Watches are never repeated here; the informer knows from where to go on.

aiohttp's and the operating system's errors become `Unreachable` at this edge, and all bodies are bounded.
"""

import asyncio
import contextlib
import random
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from kncore.api.resources import Resource
from kncore.errors import ConfigError
from kncore.kube import kubeconfig
from kncore.kube.auth import Fixed, bearer
from kncore.kube.backoff import Backoff
from kncore.kube.client import Obj, ObjectList, Patch, PatchBody, WatchEvent
from kncore.kube.errors import (
    ApiError,
    Gone,
    InternalError,
    ServerTimeout,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreachable,
    from_status,
)
from kncore.kube.kubeconfig import Connection
from kncore.kube.stream import Lines, parse_event

__all__ = ["HttpClient", "Statistics"]

_Query: TypeAlias = Mapping[str, str]

_PAGE = 500
_ATTEMPTS = 5
_LONGEST_WAIT = 10.0  # seconds; a longer Retry-After is answered by failing, the caller's back-off takes over
_WATCH = (
    300.0,
    600.0,
)  # seconds after which the server ends a watch, drawn at random so that they do not all end at once
_CONNECT = 5.0
_KEEPALIVE = 300.0  # the server closes idle connections earlier; a handshake costs a wake-up several milliseconds
_CALLS = 64  # connections for short calls; more calls wait for one, within their deadline
_STREAMS = 256  # connections for watches; a process has some twenty informers
_BODY = 64 << 20  # one page of 500 objects of etcd's 1.5 MiB limit never comes near
_EVENT = 8 << 20  # an event of one such object, JSON-escaped, with room


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a client has done since it was made, and holds now."""

    calls: int
    """Finished calls, watches not counted."""
    failed: int
    """Of those, the ones that raised."""
    repeated: int
    """Attempts beyond the first of each call."""
    under_way: int
    streams: int
    """Watches and other streams that are open."""


class HttpClient:
    """A `kncore.kube.client.Client` that speaks HTTP.

    Args:
        server: URL of the API server.
        ca: PEM text of the certificates to trust; None trusts the system's.
        token: bearer token.
        connection: all of the above and more, from `kncore.kube.kubeconfig`; the other three are then ignored.
        timeout: seconds a call may take, retries included; a watch may take as long to begin.
        page: objects per list request; as kubectl and client-go ask.
        event_bytes: the longest line of a watch that is read.
        user_agent: how the server's audit log names us.
        on_warning: called with the text of each warning that the server adds to an answer.
    """

    def __init__(
        self,
        server: str = "",
        *,
        ca: str | None = None,
        token: str | None = None,
        connection: Connection | None = None,
        timeout: float = 30.0,
        page: int = _PAGE,
        event_bytes: int = _EVENT,
        user_agent: str = "torpor",
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        if connection is None:
            secure = server.startswith("https://")
            connection = Connection(
                server=server.rstrip("/"),
                tls=kubeconfig.tls_context(ca=ca) if secure else None,
                credentials=Fixed(bearer(token) if token else ""),
            )
        self.connection = connection
        self._timeout = timeout
        self._page = page
        self._event_bytes = event_bytes
        self._user_agent = user_agent
        self._on_warning = on_warning
        self._calls: aiohttp.ClientSession | None = None
        self._watches: aiohttp.ClientSession | None = None
        self._certificate: tuple[str, str] | None = None
        self._closed = False
        self._finished = self._failed = self._repeated = self._under_way = self._streams = 0

    @classmethod
    def from_kubeconfig(cls, path: str | Path | None = None, *, context: str | None = None, **options: Any) -> Self:
        """A client for a kubeconfig's (current) context; see `kubeconfig.load` for where it is looked for.

        Raises:
            ConfigError: no usable kubeconfig.
        """
        return cls(connection=kubeconfig.load(path, context=context), **options)

    @classmethod
    def in_cluster(cls, **options: Any) -> Self:
        """A client with the pod's own service account.

        Raises:
            ConfigError: this is not a pod.
        """
        return cls(connection=kubeconfig.in_cluster(), **options)

    @property
    def namespace(self) -> str:
        """The namespace that the kubeconfig's context, or the pod, is in."""
        return self.connection.namespace

    def statistics(self) -> Statistics:
        """Totals and what is under way."""
        return Statistics(
            calls=self._finished,
            failed=self._failed,
            repeated=self._repeated,
            under_way=self._under_way,
            streams=self._streams,
        )

    # -- the Client -------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str = "") -> Obj:
        return await self._object("GET", resource.path(namespace, name, subresource), repeatable=True)

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> ObjectList:
        path = resource.path(namespace)
        query = _selectors(labels, fields) | {"limit": str(self._page)}
        items: list[Obj] = []
        while True:
            try:
                page = await self._object("GET", path, query, repeatable=True)
            except Gone:
                if "continue" not in query:
                    raise
                # The snapshot that we were paging through has expired; one answer without pages cannot.
                query = _selectors(labels, fields)
                items.clear()
                continue
            metadata = page.get("metadata") or {}
            found = page.get("items") or []
            for item in found:
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            items += found
            if not metadata.get("continue"):
                return ObjectList(items, metadata.get("resourceVersion", ""))
            query = query | {"continue": metadata["continue"]}

    async def create(self, resource: Resource, obj: Obj, namespace: str | None = None) -> Obj:
        path = resource.path(namespace or obj.get("metadata", {}).get("namespace"))
        return await self._object("POST", path, body=obj, repeatable=False)

    async def update(self, resource: Resource, obj: Obj, *, subresource: str = "") -> Obj:
        metadata = obj["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"], subresource)
        # With a version the second of two equal writes is a conflict, which the caller would take for another writer's.
        return await self._object("PUT", path, body=obj, repeatable=not metadata.get("resourceVersion"))

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: PatchBody,
        namespace: str | None = None,
        *,
        how: Patch = Patch.MERGE,
        subresource: str = "",
        field_manager: str = "torpor",
        force: bool = False,
    ) -> Obj:
        query = {"fieldManager": field_manager}
        if how is Patch.APPLY:
            query["force"] = "true" if force else "false"
        path = resource.path(namespace, name, subresource)
        return await self._object("PATCH", path, query, body=patch, media_type=how.value, repeatable=_same_twice(patch))

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        uid: str | None = None,
        grace: int | None = None,
    ) -> None:
        options: Obj = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        # Repeated without a uid it could hit a new object of the same name; with one, or at once, it is harmless.
        await self._object("DELETE", resource.path(namespace, name), body=options, repeatable=uid is not None)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        labels: str = "",
        fields: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        seconds = int(random.uniform(*_WATCH))
        query = _selectors(labels, fields) | {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        lines = Lines(self._event_bytes)
        # The server ends the stream by itself; a little later at the latest silence means that it is gone.
        # Closed by name: an abandoned inner generator would keep its connection until the collector comes by.
        async with contextlib.aclosing(self.stream(resource.path(namespace), query, silence=seconds + 30.0)) as chunks:
            async for chunk in chunks:
                for line in lines.feed(chunk):
                    yield parse_event(line)
        if lines.unfinished:
            raise Unreachable(f"watch of {resource} ended inside an event")

    async def aclose(self) -> None:
        self._closed = True
        sessions = (self._calls, self._watches)
        self._calls = self._watches = None
        for session in sessions:
            if session is not None:
                await session.close()

    # -- more than objects ------------------------------------------------------------------------------------------

    async def raw(
        self,
        method: str,
        path: str,
        query: _Query | None = None,
        body: Any = None,
        *,
        media_type: str = "",
        accept: str = "",
    ) -> Any:
        """The parsed JSON answer to any request, e.g. `/version`, a Table or a dry run; repeated only if it is a
        GET."""
        return await self._call(
            method,
            path,
            query or {},
            None if body is None else orjson.dumps(body),
            media_type or "application/json",
            repeatable=method == "GET",
            accept=accept,
        )

    async def stream(
        self, path: str, query: _Query | None = None, *, silence: float | None = None, accept: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """The answer to a GET as it comes in, e.g. a pod's log; close the generator to stop.

        Args:
            silence: seconds without a byte after which the stream counts as broken; None waits for ever.
        Raises:
            ApiError: the server refused, or the connection broke.
        """
        answer = await self._open(path, query or {}, silence, accept)
        self._streams += 1
        try:
            async with answer:
                while chunk := await answer.content.readany():
                    yield chunk
        except (aiohttp.ClientError, OSError) as exc:
            raise _unreachable(f"GET {path}", exc) from exc
        finally:
            self._streams -= 1

    async def _open(self, path: str, query: _Query, silence: float | None, accept: str) -> aiohttp.ClientResponse:
        """The head of a streamed answer; apart from its body, because a generator must not yield within a time-out."""
        url = self._url(path, query)
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=silence)
        try:
            async with asyncio.timeout(self._timeout):
                if self.connection.credentials.expires <= asyncio.get_running_loop().time():
                    await self._renew()
                answer = await self._session(watch=True).get(
                    url,
                    headers=self._authorized(self._headers("", accept)),
                    timeout=limits,
                    allow_redirects=False,
                    **self._options(),
                )
                if answer.status < 300:
                    return answer
                async with answer:
                    error = await _error(answer)
                if isinstance(error, Unauthorized):
                    await self._renew()  # for the next attempt, which is the caller's
                raise error
        except TimeoutError as exc:
            raise Unreachable(f"GET {path}: no answer within {self._timeout:g} s") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise _unreachable(f"GET {path}", exc) from exc

    # -- one call ---------------------------------------------------------------------------------------------------

    async def _object(
        self,
        method: str,
        path: str,
        query: _Query | None = None,
        *,
        body: Any = None,
        media_type: str = "application/json",
        repeatable: bool,
    ) -> Obj:
        data = None if body is None else orjson.dumps(body)
        answer = await self._call(method, path, query or {}, data, media_type, repeatable=repeatable)
        if not isinstance(answer, dict):
            raise InternalError(f"{method} {path}: the API server answered what is not an object")
        return answer

    async def _call(
        self,
        method: str,
        path: str,
        query: _Query,
        data: bytes | None,
        media_type: str,
        *,
        repeatable: bool,
        accept: str = "",
    ) -> Any:
        """The answer's JSON after as many attempts as are allowed and fit into the deadline."""
        url = self._url(path, query)
        headers = self._headers(media_type if data is not None else "", accept)
        self._under_way += 1
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._attempts(method, url, data, headers, repeatable)
        except TimeoutError as exc:
            self._failed += 1
            raise Unreachable(f"{method} {path}: no answer within {self._timeout:g} s") from exc
        except ApiError:
            self._failed += 1
            raise
        finally:
            self._under_way -= 1
            self._finished += 1
        return answer

    async def _attempts(
        self, method: str, url: URL, data: bytes | None, headers: dict[str, str], repeatable: bool
    ) -> Any:
        if self.connection.credentials.expires <= asyncio.get_running_loop().time():
            await self._renew()
        backoff = Backoff(first=0.05, cap=2.0)
        renewed = False
        attempt = 1
        while True:
            try:
                return await self._attempt(method, url, data, headers)
            except Unauthorized:
                if renewed:
                    raise
                renewed = True
                await self._renew()
            except (TooManyRequests, Unavailable, ServerTimeout, InternalError) as exc:
                wait = _may_repeat(exc, repeatable)
                if wait is None or attempt == _ATTEMPTS:
                    raise
                # The server closed a kept-alive connection just as we used it: nothing is wrong, do not wait.
                if attempt > 1 or not isinstance(exc.__cause__, aiohttp.ServerDisconnectedError):
                    await asyncio.sleep(max(wait, backoff.next()))
                attempt += 1
            self._repeated += 1

    async def _attempt(self, method: str, url: URL, data: bytes | None, headers: dict[str, str]) -> Any:
        try:
            async with self._session().request(
                method, url, data=data, headers=self._authorized(headers), allow_redirects=False, **self._options()
            ) as answer:
                if answer.status >= 300:
                    raise await _error(answer)
                if "Warning" in answer.headers and self._on_warning is not None:
                    for value in answer.headers.getall("Warning"):
                        for text in _warnings(value):
                            self._on_warning(text)
                body = await _body(answer)
        except (aiohttp.ClientError, OSError) as exc:
            raise _unreachable(f"{method} {url.path}", exc) from exc
        try:
            return orjson.loads(body)
        except ValueError as exc:
            raise InternalError(f"{method} {url.path}: the API server answered what is not JSON") from exc

    def _session(self, *, watch: bool = False) -> aiohttp.ClientSession:
        """The session of calls or of watches, opened on first use: a client may be made before the loop runs."""
        session = self._watches if watch else self._calls
        if session is not None:
            return session
        if self._closed:
            raise Unreachable("the client is closed", sent=False)
        connector = aiohttp.TCPConnector(
            limit=_STREAMS if watch else _CALLS,
            keepalive_timeout=_KEEPALIVE,
            ssl=self.connection.tls or True,
            socket_factory=_open_socket,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
        )
        if watch:
            self._watches = session
        else:
            self._calls = session
        return session

    def _headers(self, media_type: str, accept: str = "") -> dict[str, str]:
        # Compression pays on slow links only; within a cluster it costs both sides more than it saves.
        headers = {
            "Accept": accept or "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": self._user_agent,
        }
        if media_type:
            headers["Content-Type"] = media_type
        return headers

    def _authorized(self, headers: dict[str, str]) -> dict[str, str]:
        if authorization := self.connection.credentials.authorization:
            headers["Authorization"] = authorization
        return headers

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.connection.server_name:
            options["server_hostname"] = self.connection.server_name
        if self.connection.proxy:
            options["proxy"] = self.connection.proxy
        return options

    def _url(self, path: str, query: _Query) -> URL:
        text = f"{self.connection.server}{path}"
        if query:
            text = f"{text}?{urlencode(query, quote_via=quote)}"
        return URL(text, encoded=True)

    async def _renew(self) -> None:
        credentials = self.connection.credentials
        try:
            await credentials.renew()
            if credentials.certificate and credentials.certificate != self._certificate and self.connection.tls:
                self.connection.tls.load_cert_chain(*credentials.certificate)
                self._certificate = credentials.certificate
        except (ConfigError, ssl.SSLError) as exc:
            raise Unauthorized(str(exc)) from exc


def _selectors(labels: str, fields: str) -> dict[str, str]:
    query = {}
    if labels:
        query["labelSelector"] = labels
    if fields:
        query["fieldSelector"] = fields
    return query


def _same_twice(patch: PatchBody) -> bool:
    """Whether applying the patch a second time changes nothing and does not fail."""
    if isinstance(patch, dict):
        return not (patch.get("metadata") or {}).get("resourceVersion")
    # `replace` sets, `add` may insert into a list, `remove` and `test` fail the second time.
    return all(operation.get("op") == "replace" for operation in patch)


def _may_repeat(exc: ApiError, repeatable: bool) -> float | None:
    """How long to wait before the next attempt, at least; None if there must be none."""
    wait = exc.retry_after or 0.0
    if wait > _LONGEST_WAIT:
        return None
    untouched = isinstance(exc, TooManyRequests) or (isinstance(exc, Unreachable) and not exc.sent)
    if isinstance(exc, InternalError) and exc.retry_after is None:
        return None  # mostly a webhook that fails; trying at once again only adds load
    return wait if untouched or repeatable else None


def _unreachable(what: str, exc: BaseException) -> ApiError:
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return Unreachable(f"{what}: the server's certificate is not trusted: {exc.certificate_error}", sent=False)
    sent = not isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    return Unreachable(f"{what}: {str(exc) or type(exc).__name__}", sent=sent)


async def _error(answer: aiohttp.ClientResponse) -> ApiError:
    """The typed error in an answer, whatever its body is."""
    try:
        status = orjson.loads(await _body(answer))
    except (ValueError, ApiError):
        status = None
    retry_after = answer.headers.get("Retry-After", "")
    return from_status(
        status if isinstance(status, dict) and status.get("kind") == "Status" else {},
        code=answer.status,
        retry_after=float(retry_after) if retry_after.isdecimal() else None,
    )


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    if answer.content_length is not None and answer.content_length <= _BODY:
        return await answer.read()
    parts, size = [], 0
    while chunk := await answer.content.readany():
        size += len(chunk)
        if size > _BODY:
            raise TooLarge(f"the API server's answer is larger than {_BODY} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _warnings(value: str) -> list[str]:
    """The texts in a `Warning` header: `299 - "text", 299 - "another"`."""
    return [re.sub(r"\\(.)", r"\1", text) for text in re.findall(r'"((?:[^"\\]|\\.)*)"', value)]


def _open_socket(address: Any) -> socket.socket:
    """A socket that notices within a minute that its peer has vanished: a watch never writes, so nothing else would."""
    family, type_, protocol, _, _ = address
    made = socket.socket(family=family, type=type_, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if option := getattr(socket, name, None):  # macOS names the first differently and defaults to two hours
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made

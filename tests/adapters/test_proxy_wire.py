"""What goes over the wire: bytes of clients and engines pass as they are, whatever they are."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import replace

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from sbs_opt.adapters.serve_config import Shadow
from tests.adapters.proxy_bench import Bench, bench, engine_of, proxy_of, run, use

BODY = {"model": "m", "prompt": "x"}


async def exchange(url: str, request: bytes) -> bytes:
    """Send bytes, and return all that comes until the connection is closed."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def request_of(body: bytes, *headers: bytes, path: bytes = b"/v1/completions") -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"Host: router", b"Connection: close", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, *headers, b"", body])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=5))
def test_an_answer_passes_byte_for_byte(pieces: list[bytes]) -> None:
    async def engine(http: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Engine": "e"})
        await answer.prepare(http)
        for piece in pieces:
            await answer.write(piece)
        return answer

    async def scenario(one: Bench) -> None:
        async with engine_of(engine) as url:
            await use(one, url)
            async with one.client.post(f"{one.url}/v1/completions", json=BODY) as answer:
                assert await answer.read() == b"".join(pieces)
                assert answer.headers["X-Engine"] == "e"

    run(scenario)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_headers_and_bodies_that_are_no_text_reach_the_engine(kind: str) -> None:
    """A header of Latin-1, half a surrogate pair, a body packed by the client, a query: none is an error here."""
    seen: list[tuple[web.Request, bytes]] = []

    async def engine(http: web.Request) -> web.StreamResponse:
        seen.append((http, await http.read()))
        return web.json_response({"choices": []})

    async def scenario(one: Bench) -> None:
        async with engine_of(engine) as url:
            await use(one, url)
            plain = json.dumps(BODY).encode()
            packed = request_of(gzip.compress(plain), b"Content-Encoding: gzip")
            half = request_of(b'{"prompt": "\\ud800", "routed_dp_rank": 3}')
            latin = request_of(plain, b"X-Name: Jos\xe9")
            waits = request_of(plain, b"Expect: 100-continue")
            query = request_of(plain, path=b"/v1/completions?api-version=1&x=%2F")
            packs = request_of(plain, b"Accept-Encoding: br")
            for request in (packed, half, latin, waits, query, packs):
                answer = await exchange(one.url, request)
                assert b"HTTP/1.1 200" in answer, answer

    run(scenario, kind=kind)
    (packed, packed_body), (_, half_body), (latin, _), (waits, _), (query, _), (packs, _) = seen
    assert packs.headers["Accept-Encoding"] == "br"
    assert packed.headers["Accept-Encoding"] == "identity", "a client that unpacks nothing gets nothing packed"
    assert "Content-Encoding" not in packed.headers
    assert json.loads(packed_body)["prompt"] == "x"
    assert json.loads(half_body)["prompt"] == "\ud800"
    assert latin.headers["X-Name"].startswith("Jos")  # aiohttp leaves out what is no UTF-8
    assert "Expect" not in waits.headers
    assert query.raw_path == "/v1/completions?api-version=1&x=%2F"


@pytest.mark.parametrize("legs", [True, False])
def test_bodies_that_cannot_be_taken_apart_or_put_together_are_the_clients_fault(legs: bool) -> None:
    """A body that is read and cannot be written anew, nested deeply, left its decode unit booked for ever."""

    async def scenario(one: Bench) -> None:
        for depth in (*range(900, 1100, 7), *range(970, 990)):
            body = b'{"prompt": [1], "max_tokens": 1, "routed_dp_rank": 1, "x": %b}' % (b"[" * depth + b"]" * depth)
            answer = await exchange(one.url, request_of(body))
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400")), answer
        for packing in (b"gzip", b"deflate"):
            for path in (b"/v1/completions", b"/v1/placements"):
                answer = await exchange(one.url, request_of(b"not packed", b"Content-Encoding: " + packing, path=path))
                assert answer.startswith(b"HTTP/1.1 400"), answer

    run(scenario, kind="sglang", modes=("prefill", "decode") if legs else ("unified",))


def test_a_token_of_any_bytes_is_compared() -> None:
    async def main() -> None:
        async with bench(token="geheim") as one:
            for shown, status in ((b"geh\xffeim", 401), ("gehéim".encode(), 401), (b"geheim", 200)):
                body = b'{"prompt": [1, 2, 3], "max_tokens": 1}'
                answer = await exchange(one.url, request_of(body, b"Authorization: Bearer " + shown))
                assert answer.startswith(b"HTTP/1.1 %d" % status), answer

    asyncio.run(main())


async def raw_engine(answer: bytes) -> asyncio.Server:
    """Start a server that reads a request and sends these bytes, then closes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(answer)
        writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", 0)


@pytest.mark.parametrize("rest", [b"data: 2\n\n", b"data: [DONE]\n\n"])
def test_a_stream_that_ends_with_its_connection_is_whole_only_with_its_end(rest: bytes) -> None:
    """Without a length nor chunks nothing tells an engine that died from one that is done."""

    async def scenario(one: Bench) -> None:
        events = b"data: 1\n\n" + rest
        server = await raw_engine(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + events)
        await use(one, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")  # a slash does no harm
        async with one.client.post(f"{one.url}/v1/completions", json=BODY | {"stream": True}) as answer:
            stream = await answer.read()
        assert stream.startswith(events)
        assert (b"upstream_error" in stream) == (b"[DONE]" not in rest)
        server.close()

    run(scenario)


def test_a_shadow_passes_on_whatever_comes() -> None:
    """Clients find what they are used to: other paths, a rank of their own, bodies that are not read here."""
    seen: list[tuple[str, str | None, bytes]] = []

    async def router(http: web.Request) -> web.Response:
        seen.append((f"{http.method} {http.raw_path}", http.headers.get("X-data-parallel-rank"), await http.read()))
        return web.json_response({"error": "never heard of it"}, status=503, headers={"Retry-After": "17"})

    async def scenario(one: Bench) -> None:
        async with (
            engine_of(router, rest=router) as behind,
            proxy_of(replace(one.config, shadow=Shadow(behind))) as (proxy, url),
        ):
            headers = {"X-data-parallel-rank": "2"}
            for method, path, body in ASKED:
                asked = one.client.request(method, URL(url + path, encoded=True), data=body, headers=headers)
                async with asked as answer:
                    assert (answer.status, answer.headers["Retry-After"]) == (503, "17")
                    assert method == "HEAD" or b"never heard of it" in await answer.read()
            await proxy.drain()
            for path in ("/v1/models", "/v1/completions"):
                async with one.client.post(url + path, data=b"{}") as answer:
                    assert (answer.status, b"stopping" in await answer.read()) == (503, True)

    run(scenario)
    assert seen == [(f"{method} {path}", "2", body) for method, path, body in ASKED]


def test_a_shadow_that_stops_leaves_nobody_waiting() -> None:
    async def silent(_: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.sleep(60)
        return web.Response()

    asked = asyncio.Event()

    async def scenario(one: Bench) -> None:
        async with engine_of(silent) as behind:
            shadowed = replace(one.config, shadow=Shadow(behind), limits=replace(one.config.limits, drain_s=0.1))
            async with proxy_of(shadowed) as (proxy, url):
                waits = asyncio.create_task(one.client.post(f"{url}/v1/completions", json=BODY))
                await asked.wait()
                await proxy.drain()
                async with await waits as answer:
                    assert answer.status == 502

    run(scenario)


ASKED = (
    ("POST", "/v1/embeddings?sig=a%2Fb", b'{"input": "x"}'),
    ("GET", "/%41/b", b""),
    ("POST", "/v1/completions", b'{"prompt": ["one", "two"]}'),
    ("POST", "/v1/chat/completions", b"no JSON"),
    ("POST", "/v1/completions", b'{"prompt": "one"}'),
    ("OPTIONS", "/v1/completions", b""),
    ("GET", "/v1/models", b""),
    ("GET", "/tokenize", b""),
    ("HEAD", "/tokenize", b""),
    ("DELETE", "/v1/files/a%20b", b""),
)

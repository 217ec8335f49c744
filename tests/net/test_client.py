"""The HTTP client: only public addresses, at every hop and under every spelling; and whatever a server does, an end."""

import asyncio
import contextlib
import gzip
import http.server
import socket
import threading
import time
import tracemalloc
import zlib
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from openglm.net.addresses import is_public
from openglm.net.client import Client, FetchError, Limits

PUBLIC = "93.184.216.34"


def bomb(size=10 << 30):
    """Ten megabytes that become ten gigabytes: a block that ends at a byte, again and again."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    first, other = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + other * ((size >> 20) - 1)


BOMB = bomb()


class Site(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.seen.append(self.path)
        getattr(self, urlsplit(self.path).path.strip("/"))()

    do_POST = do_GET

    def send(self, body=b"", status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "Connection": "close", **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # who has had enough leaves
            self.wfile.write(body)
        self.close_connection = True

    def page(self):
        self.send("床前明月光".encode())

    def packed(self):
        assert self.headers["Accept-Encoding"] == "gzip"
        self.send(gzip.compress(b"a page"), Content_Encoding="gzip")

    def behind(self):
        self.send(gzip.compress(b"a page") + b"x" * (1 << 20), Content_Encoding="gzip")

    def bomb(self):
        self.send(BOMB, Content_Encoding="gzip")

    def cut(self):
        self.send(gzip.compress(bytes(range(256)) * 64)[:-40], Content_Encoding="gzip")

    def brotli(self):
        self.send(b"\x8b\x02\x80", Content_Encoding="br")

    def to(self):
        self.send(status=302, Location=parse_qs(urlsplit(self.path).query)["at"][0])

    def loop(self):
        self.send(status=302, Location="/loop")

    def endless(self, pause=0.0, piece=b"x" * 65536):
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.over:
                self.wfile.write(piece)
                time.sleep(pause)
        except OSError:
            pass

    def slow(self):
        self.endless(0.05, b"x")

    def slow_head(self):
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(200):
                self.wfile.write(b"X-%d: y\r\n" % number)
                time.sleep(0.05)
        except OSError:
            pass
        self.close_connection = True


@pytest.fixture(scope="module")
def sites():
    """Two servers of this machine."""
    found = []
    for _ in range(2):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
        server.seen, server.over, server.daemon_threads = [], False, True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.append(server)
    yield found
    for server in found:
        server.over = True
        server.shutdown()


def address(site):
    return f"127.0.0.1:{site.server_port}"


def fetch(url, client=None, **options):
    async def run():
        async with client or Client(**options) as one:
            return await one.fetch(url)

    return asyncio.run(run())


def refused(url, client=None, **options):
    with pytest.raises(FetchError) as error:
        fetch(url, client, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def faked(answers, resolve):
    """A client whose connections end in `answers`, by URL as it is asked for; and what it asked for."""
    asked = []

    def answer(request):
        asked.append(request)
        return answers(request)

    client = Client(resolve=resolve)
    client._transport = httpx.MockTransport(answer)
    return client, asked


def always(*addresses):
    async def resolve(host, port):
        return [host] if host.replace(".", "").isdigit() else list(addresses)

    return resolve


# By block, by spelling, and what a page would try first: loopback, a router, a cloud's metadata.
PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.8", "192.0.2.1", "192.88.99.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0x7F.0x0.0x0.0x1", "0177.0.0.1", "00177.1",
    "017700000001", "0", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "012.0.0.1", "4294967295", "127.0.0.1.",
    "%31%32%37.0.0.1", "127%2e0%2e0%2e1", "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021",
    "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460", "127.0.0.1\u00ad", "1\u200b27.0.0.1", "127.0.0.1%00.a.test",
    "localhost", "LOCALHOST", "localhost.", "127.0.0.1:8080",
    "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::0.0.0.1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::ffff:a9fe:a9fe]", "[::ffff:100.64.0.1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:c0a8:101::1]", "[2001:0:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "[2001:10::1]", "[2001:db8::1]", "[3fff::1]", "[fe80::1]", "[fe80::1%lo]",
    "[fe80::1%25lo]", "[::1%lo]", "[fc00::1]", "[fd00:ec2::254]", "[fec0::1]", "[ff02::1]", "[ff0e::1]", "[100::1]",
    "[5f00::1]", "[4000::1]",
]  # fmt: skip
# Where two parsers of URLs may find two hosts, or something else than a host.
ODD = [
    "http://127.0.0.1\\@1.1.1.1/", "http://1.1.1.1\\@127.0.0.1/", "http://1.1.1.1\\.a.test/", "http:\\\\127.0.0.1/",
    "http://a b/", "http://a.test/ x", "http://a.test/\r\nX: y", "http://a\t.test/", "http://a.test/\x00", "\x01http://a.test/",
    "http://user:key@a.test/", "http://a.test@127.0.0.1/", "http://a.test:80@127.0.0.1/", "http://@127.0.0.1/",
    "http://a.test:99999/", "http://a.test:-1/", "http://a.test:0/", "http://a.test:80:80/", "http://[::1", "http://[::1]x/",
    "file:///etc/passwd", "ftp://a.test/", "gopher://127.0.0.1:6379/_x", "data:text/html,x", "javascript:alert(1)",
]  # fmt: skip


async def resolved(host, port):
    """As a system does it: an address in any of its spellings is that address; of names it knows hop1.test and its like."""
    if host.endswith(".test") and "%" not in host:
        return [PUBLIC]
    numeric = 0 if host == "localhost" else socket.AI_NUMERICHOST
    return [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)]


def test_no_private_address_is_connected_to_however_it_is_written_and_whichever_hop_leads_there():
    """Hop 0 is the address that is asked for itself; each of the others is another kind of redirect."""
    forms = ("http://{}/", "//{}/", "HTTP://{}:80/x", "https://{}/?y", "http://{}")
    client, asked = faked(lambda request: httpx.Response(200), resolved)

    async def run(target, hops):
        asked.clear()
        locations = [f"http://hop{number}.test/" for number in range(1, hops)] + [target] * (hops > 0)
        statuses = dict(zip(locations, (301, 302, 303, 307, 308), strict=False))
        waiting = list(statuses.items())

        def answer(request):
            asked.append(request.url.host)
            location, status = waiting.pop(0) if waiting else ("", 200)
            return httpx.Response(status, headers={"Location": location.encode()} if location else {})

        client._transport = httpx.MockTransport(answer)
        try:
            await client.fetch("http://start.test/" if hops else target)
        except FetchError as error:
            return str(error)

    async def every():
        for host in PRIVATE:
            for hops in range(6):
                said = await run(forms[hops - 1].format(host.partition(":8080")[0] if hops == 3 else host), hops)
                assert asked == [PUBLIC] * hops and said, (host, hops, asked)

    asyncio.run(every())


@pytest.mark.parametrize("url", ["", "x" * 5000, "http:///x", *ODD])
def test_a_url_that_parsers_read_differently_is_refused_also_as_a_redirect(url):
    client, asked = faked(lambda request: httpx.Response(302, headers={"Location": url.encode()}), always(PUBLIC))
    assert len(refused(url, client)) < 1000 and not asked
    if url in ODD:
        assert len(refused("http://start.test/", client)) < 1000 and len(asked) == 1


def test_the_public_stays_public():
    assert all(map(is_public, (PUBLIC, "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "192.0.1.1", "172.32.0.1")))


def test_the_connection_goes_to_the_address_that_was_checked():
    """A name that leads elsewhere when it is asked for again."""
    waiting = [[PUBLIC], ["127.0.0.1"]]

    async def rebinding(host, port):
        return waiting.pop(0)

    client, asked = faked(lambda request: httpx.Response(200, content=b"page"), rebinding)
    assert fetch("https://rebind.test/x?y", client).url == "https://rebind.test/x?y" and len(waiting) == 1
    (request,) = asked
    assert request.url.host == PUBLIC and request.headers["Host"] == "rebind.test"
    assert request.extensions["sni_hostname"] == "rebind.test", "the certificate is checked for the name"


def test_a_redirect_to_the_same_name_is_resolved_and_checked_again():
    waiting = [[PUBLIC], ["127.0.0.1"]]

    async def rebinding(host, port):
        return waiting.pop(0)

    client, asked = faked(lambda request: httpx.Response(302, headers={"Location": "/again"}), rebinding)
    assert "leads to 127.0.0.1" in refused("http://rebind.test/", client)
    assert [request.url.host for request in asked] == [PUBLIC]


def test_one_private_address_of_several_is_enough():
    client, asked = faked(lambda request: httpx.Response(200), always(PUBLIC, "10.0.0.1"))
    assert "leads to 10.0.0.1" in refused("http://mixed.test/", client) and not asked


def test_the_next_address_is_tried_where_one_does_not_answer():
    def answer(request):
        if request.url.host != PUBLIC:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(200, content=b"page")

    client, asked = faked(answer, always("2606:4700::1111", PUBLIC))
    assert fetch("http://both.test/", client).body == b"page" and len(asked) == 2


def test_secrets_stay_with_the_first_host():
    def answer(request):
        target = "https://other.test/" if request.headers["Host"] == "first.test" else ""
        return httpx.Response(307 if target else 200, headers={"Location": target} if target else {})

    client, asked = faked(answer, always(PUBLIC))

    async def run():
        async with client:
            await client.fetch("https://first.test/", headers={"Authorization": "Bearer secret"})

    asyncio.run(run())
    assert [request.headers.get("Authorization") for request in asked] == ["Bearer secret", None]


def test_a_host_that_the_user_allowed_is_reached_and_no_other(sites):
    first, second = sites
    allowed = (address(first),)
    assert fetch(f"http://{allowed[0]}/page", allowed=allowed).body.decode() == "床前明月光"
    assert "not a public address" in refused(f"http://{allowed[0]}/page")
    for target in (address(second), "169.254.169.254", "[::ffff:127.0.0.1]", "localhost"):
        url = f"http://{allowed[0]}/to?at=http://{target}/page"
        assert "not a public address" in refused(url, allowed=allowed)
    assert not second.seen, "the canary"
    assert fetch(f"http://{allowed[0]}/to?at=/page", allowed=allowed).url.endswith("/page")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("bomb", "too large"),
        ("endless", "too large"),
        ("slow", "not done within 0.6 seconds"),
        ("slow_head", "not done within 0.6 seconds"),
        ("loop", "more than 5 redirects"),
        ("cut", "was cut short"),
        ("brotli", "content-encoding = 'br'"),
    ],
)
def test_a_server_without_measure_is_left(sites, path, words):
    site = address(sites[0])
    limits = Limits(seconds=0.6 if "slow" in path else 20, size=1 << 20)
    tracemalloc.start()
    try:
        assert words in refused(f"http://{site}/{path}", allowed=(site,), limits=limits)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_packed_pages_are_unpacked_and_what_follows_them_is_not_read(sites):
    site = address(sites[0])
    for path in ("packed", "behind"):
        assert fetch(f"http://{site}/{path}", allowed=(site,)).body == b"a page"


def test_many_at_once_and_a_bad_one_costs_no_other(sites):
    site = address(sites[0])

    async def run():
        async with Client(Limits(seconds=5, size=1 << 16), allowed=(site,)) as client:
            return await client.fetch_all(
                [f"http://{site}/{path}" for path in ("page", "loop", "packed", "endless")], 3
            )

    found = asyncio.run(run())
    assert [isinstance(one, FetchError) for one in found] == [False, True, False, True]
    assert found[2].body == b"a page"

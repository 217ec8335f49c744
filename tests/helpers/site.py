"""A web site of this machine: pages that are given, and some that misbehave."""

import gzip
import http.server
import threading
import time
import zlib

BOMB = gzip.compress(bytes(64 << 20), 9)


def heavy_pdf(pages=200):
    """Thirty kilobytes that take a reader minutes: each page shows the same 30,000 words."""
    shown = zlib.compress(b"BT /F 1 Tf (moss) Tj ET\n" * 30_000, 9)
    page = b"<</Type/Page /Parent 2 0 R /MediaBox[0 0 9 9] /Contents 3 0 R /Resources<</Font<</F 4 0 R>>>>>>"
    objects = [
        b"<</Type/Catalog /Pages 2 0 R>>",
        b"<</Type/Pages /Count %d /Kids[%s]>>" % (pages, b" ".join(b"%d 0 R" % (5 + each) for each in range(pages))),
        b"<</Filter/FlateDecode /Length %d>>stream\n%s\nendstream" % (len(shown), shown),
        b"<</Type/Font /Subtype/Type1 /BaseFont/Helvetica>>",
        *[page] * pages,
    ]
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % each for each in enumerate(objects, 1))
    return b"%%PDF-1.4\n%strailer<</Size %d /Root 1 0 R>>\nstartxref\n0\n%%%%EOF" % (body, len(objects) + 1)


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.server.site
        site.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path in site.pages:
            body, kind = site.pages[path]
            self.answer(body, kind)
        elif path.startswith("/to/"):
            self.answer(b"", "text/html", 302, Location="http://" + path.removeprefix("/to/"))
        elif path == "/bomb":
            self.answer(BOMB, "text/html", Content_Encoding="gzip")
        elif path == "/broken":
            self.answer(b"", "text/html", 500)
        elif path in ("/slow", "/endless"):
            self.drip(0.05 if path == "/slow" else 0.0)
        else:
            self.answer(b"nothing here", "text/html", 404)

    def answer(self, body, kind, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def drip(self, pause):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        try:
            while not self.server.site.over:
                self.wfile.write(b"<p>more " * (1 if pause else 4096))
                time.sleep(pause)
        except OSError:
            self.server.site.left.append(self.path)


class Site:
    """pages: body and content type by path. asked: paths; left: those of answers that nobody read to the end."""

    def __init__(self, pages):
        self.pages = {
            path: (body.encode() if isinstance(body, str) else body, kind) for path, (body, kind) in pages.items()
        }
        self.asked, self.left, self.over = [], [], False
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.site, self._server.daemon_threads = self, True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"

    def url(self, path):
        return f"http://{self.host}{path}"

    def close(self):
        self.over = True
        self._server.shutdown()
        self._server.server_close()

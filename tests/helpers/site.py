"""A web site of this machine: pages that are given, and some that misbehave."""

import gzip
import http.server
import threading
import time

BOMB = gzip.compress(bytes(64 << 20), 9)


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

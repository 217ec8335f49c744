"""What `run` gives back: answers, errors, limits; and that nothing of it stays."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.escapes import running

from openglm import sandbox
from openglm.sandbox import languages, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more than limits")

ECHO_AND_ADD = {
    "python": "print(input() + str(1 + 1))",
    "javascript": "console.log(require('fs').readFileSync(0, 'utf8').trim() + (1 + 1))",
    "cpp": "#include <iostream>\nint main() { std::string s; std::cin >> s; int unused; std::cout << s << 1 + 1 << std::endl; }",
    "java": """public class Main { public static void main(String[] a) {
        System.out.println(new java.util.Scanner(System.in, "UTF-8").next() + (1 + 1)); } }""",
    "go": 'package main\nimport "fmt"\nfunc main() { var s string; fmt.Scan(&s); fmt.Println(s + fmt.Sprint(1 + 1)) }',
    "rust": """fn main() { let mut s = String::new(); let unused = 3;
        std::io::stdin().read_line(&mut s).unwrap(); println!("{}{}", s.trim(), 1 + 1); }""",
}


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_every_language_reads_and_answers_without_a_word_of_its_compiler(language):
    if language != "python" and not shutil.which(languages.LANGUAGES[language].tool):
        pytest.skip(f"{language} is not installed")
    result = run(ECHO_AND_ADD[language], language=language, stdin="你好\n", seconds=60)
    assert result[:3] == ("你好2\n", "", 0) and result.killed_by is None


@pytest.mark.parametrize(
    ("source", "status"),
    [("import sys; sys.exit(7)", 7), ("raise SystemExit", 0), ("1 / 0", 1), ("import os; os.abort()", -signal.SIGABRT)],
)
def test_the_status_is_the_programs(source, status):
    assert run(source).status == status


def test_standard_output_and_error_stay_apart():
    result = run("import sys; print('右'); print('左', file=sys.stderr)")
    assert (result.stdout, result.stderr) == ("右\n", "左\n")


def test_bytes_that_are_not_utf8_are_shown_as_such():
    assert run("import os; os.write(1, b'a\\xffb')").stdout == "a\ufffdb"


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_a_program_that_does_not_compile_says_why_and_does_not_run():
    result = run("int main() { return 不; }", language="cpp", seconds=60)
    assert result.status != 0 and result.stdout == "" and "不" in result.stderr and "main.cpp:1" in result.stderr


def test_files_lie_beside_the_program_and_can_be_imported_and_changed():
    files = {"数据/一 二.txt": "诗", "helper.py": "answer = 42", "raw": b"\0\xff"}
    source = "import helper; print(helper.answer, open('数据/一 二.txt').read(), open('raw', 'rb').read()); open('数据/一 二.txt', 'a').write('x')"
    result = run(source, files=files)
    assert result.stdout == "42 诗 b'\\x00\\xff'\n", result.stderr


def test_files_cannot_take_the_place_of_what_the_launcher_imports():
    trap = "print('TRAPPED')"
    result = run("print('fine')", files=dict.fromkeys(("isolation.py", "sitecustomize.py", "usercustomize.py"), trap))
    assert result.stdout == "fine\n", result


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "", ".", "a\0b", "main.py", "./main.py"])
def test_files_stay_in_the_work_folder(name):
    with pytest.raises(ValueError, match="files"):
        run("", files={name: "x"})


def test_input_that_looks_like_a_job_is_only_input():
    text = (300).to_bytes(4, "little").decode("latin-1") + '{"layers": [], "steps": [], "files": []}'
    assert run("import sys; print(repr(sys.stdin.read()))", stdin=text).stdout == repr(text) + "\n"


def test_megabytes_go_in_and_come_out_at_once():
    text = "0123456789abcdef" * (3 << 16)
    result = run(
        "import shutil, sys; shutil.copyfileobj(sys.stdin, sys.stdout)", stdin=text, output_bytes=4 << 20, seconds=60
    )
    assert result.stdout == text


def test_input_that_nobody_reads_keeps_nobody_waiting():
    assert run("print('done')", stdin="x" * (5 << 20), seconds=60)[:3] == ("done\n", "", 0)


@pytest.mark.parametrize(("length", "killed_by"), [(1000, None), (1001, "output")])
def test_output_is_cut_at_its_limit(length, killed_by):
    result = run(f"print('x' * {length}, end='')", output_bytes=1000)
    assert (len(result.stdout), result.killed_by) == (1000, killed_by)


def test_time_ends_a_program_and_keeps_what_it_wrote():
    result = run("import time; print('before', flush=True); time.sleep(60)", seconds=2)
    assert (result.stdout, result.status, result.killed_by) == (
        "before\n",
        -signal.SIGKILL,
        "time",
    ) and result.seconds >= 2


def test_a_program_sees_its_own_memory_error_first():
    assert run("try: x = bytearray(1 << 30)\nexcept MemoryError: print('too much')").stdout == "too much\n"


def test_what_forked_processes_share_counts_once():
    """100 MB in each of six processes, all the same pages."""
    source = "import os, time; x = b'x' * (100 << 20)\nfor _ in range(5):\n  if os.fork() == 0: time.sleep(1); os._exit(0)\nfor _ in range(5): os.wait()\nprint(len(x))"
    assert run(source, seconds=60).stdout == f"{100 << 20}\n"


def test_many_at_once_answer_for_themselves_and_leave_nothing():
    def mine() -> tuple[set[str], set[str], set[str]]:
        folders = {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("sandbox-")}
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return set(os.listdir("/proc/self/fd")), set(children), folders

    before = mine()
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda number: run(f"print({number} ** 2)", seconds=60), range(36)))
    assert [result.stdout for result in results] == [f"{number**2}\n" for number in range(36)]
    assert all(now <= then for now, then in zip(mine(), before, strict=True))  # others may have closed theirs


def test_when_the_caller_is_killed_its_programs_end_too():
    sleep = f"['python', '-c', 'import time; time.sleep(99)', 'or' + 'phan-{os.getpid()}']"  # no one else has the word whole
    program = f"import os, sys; os.execv(sys.executable, {sleep})"
    caller = subprocess.Popen(
        [sys.executable, "-c", f"from openglm import sandbox; sandbox.run({program!r}, seconds=99)"]
    )
    marker = f"orphan-{os.getpid()}"
    assert wait_until(lambda: running(marker))
    caller.kill()
    caller.wait()
    assert wait_until(lambda: not running(marker))


def wait_until(true) -> bool:
    deadline = time.monotonic() + 60
    while not (reached := bool(true())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return reached


def test_a_system_with_limits_alone_needs_the_callers_word(monkeypatch):
    monkeypatch.setattr(sandbox, "protections", lambda: ("limits",))
    with pytest.raises(ValueError, match="unprotected = False") as error:
        run("print(1)")
    assert "\n" not in str(error.value)
    assert run("print(1)", unprotected=True).stdout == "1\n"


def test_a_protection_that_cannot_be_had_is_an_error_and_nothing_runs(tmp_path, monkeypatch):
    """The seccomp filter is refused by the kernel: the program must not start without it."""
    folder = tmp_path / "sandbox"
    shutil.copytree(Path(sandbox.__file__).parent, folder)
    text = (folder / "isolation.py").read_text(encoding="utf-8")
    assert "program = filter_program(inside)" in text
    (folder / "isolation.py").write_text(
        text.replace("program = filter_program(inside)", "program = bytes(8)"), encoding="utf-8"
    )
    monkeypatch.setattr(sandbox, "_LAUNCHER", folder / "launcher.py")
    with pytest.raises(OSError, match=r"sandbox: .*seccomp"):
        run("print('ran')")


def test_a_missing_compiler_is_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    languages.toolchain.cache_clear()
    with pytest.raises(ValueError, match=r"needs javac, .*put it on PATH") as error:
        run("", language="java")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "option",
    [dict(language="cobol"), dict(seconds=0), dict(seconds=1e9), dict(memory_bytes=1000), dict(output_bytes=0)],
)
def test_wrong_options_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        run("", **option)


def test_the_environment_is_the_sandboxs_own(monkeypatch):
    for name in ("PYTHONSTARTUP", "LD_PRELOAD", "PYTHONPATH", "SECRET_KEY"):
        monkeypatch.setenv(name, "/nowhere")
    names = set(run("import os; print(*os.environ)").stdout.split())
    assert names - {"LC_CTYPE"} == {"PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG"}


def test_the_active_layers_are_told():
    with contextlib.suppress(ValueError):
        assert sandbox.protections()[0] == "limits"

"""A child that a hostile file has taken over: the attacks that worked once, run as the child, with and without."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil
import pytest

from tests.support.media_files import make, picture
from workers.errors import ConfinementMissing, DecodeFailed, MediaError, NoStreams
from workers.media import confinement, ffmpeg
from workers.media.clip_reader import decode_clip
from workers.media.confinement import Level
from workers.media.probing import probe
from workers.records import Clip, DecodeSettings, MediaInfo

needs_all = pytest.mark.skipif(not confinement.level().is_full, reason=f"the kernel grants {confinement.level()}")

ATTACKS = """
import ctypes, json, os, signal, socket, sys, threading
folder, port, parent = sys.argv[1], int(sys.argv[2]), os.getppid()
libc = ctypes.CDLL(None, use_errno=True)

def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

def double_fork():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open(folder + "/forked", "w").close()
        os._exit(0)

def thread():
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()

attacks = {
    "the parent's environment": lambda: open(f"/proc/{parent}/environ", "rb").read(1),
    "the parent's memory": lambda: open(f"/proc/{parent}/mem", "r+b"),
    "tracing the parent": lambda: check(libc.ptrace(0x4206, parent, None, None)),
    "a signal to the parent": lambda: os.kill(parent, 0),
    "somebody's scheduling": lambda: os.setpriority(os.PRIO_PROCESS, parent, os.getpriority(os.PRIO_PROCESS, parent)),
    "a user's file": lambda: open(folder + "/secret").read(),
    "the list of a folder": lambda: os.listdir(folder),
    "a new file": lambda: open(folder + "/planted", "w"),
    "deleting": lambda: os.unlink(folder + "/victim"),
    "renaming": lambda: os.rename(folder + "/other", folder + "/renamed"),
    "a link": lambda: os.symlink("/etc", folder + "/link"),
    "a mode": lambda: os.chmod(folder + "/secret", 0o777),
    "a time": lambda: os.utime(folder + "/secret", (1, 1)),
    "TCP": lambda: socket.create_connection(("127.0.0.1", port), 2),
    "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)),
    "a socket of the machine": lambda: socket.socket(socket.AF_UNIX),
    "another program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "a process that stays": double_fork,
    "outliving the parent": lambda: check(libc.prctl(1, 0, 0, 0, 0)),
    "memory that has no name": lambda: os.memfd_create("x"),
    "many open files": lambda: [os.open("/dev/null", os.O_RDONLY) for _ in range(500)],
}
done = []
for name, attack in attacks.items():
    try:
        attack()
        done.append(name)
    except OSError:
        pass
thread()  # which a decoder needs
print(json.dumps([done, list(attacks)]))
"""


@pytest.fixture
def target(tmp_path):
    for name in ("secret", "victim", "other"):
        (tmp_path / name).write_text("of the user")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield tmp_path, [sys.executable, "-c", ATTACKS, str(tmp_path), str(listener.getsockname()[1])]


@needs_all
def test_a_child_that_is_taken_over_reaches_nothing(target):
    folder, program = target
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    child = confinement.start(program, timeout_s=20, file_bytes=1 << 20, stdout=-1, stderr=-1)
    said, complaint = child.communicate(timeout=20)
    done, tried = json.loads(said or "[]") or pytest.fail(complaint.decode())
    assert done == []
    assert len(tried) > 20
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_attacks_work_where_nothing_confines(target):
    folder, program = target
    done, tried = json.loads(subprocess.run(program, stdout=-1, check=True, timeout=20).stdout)
    # What remains needs rights of its own on some machines.
    assert set(tried) - set(done) <= {"tracing the parent", "the parent's memory", "a process that stays"}
    assert (folder / "planted").exists()
    assert not (folder / "victim").exists()


@needs_all
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_root_has_no_capabilities_and_still_reads_what_is_not_its_own(tmp_path):
    wait = [sys.executable, "-c", "import time; time.sleep(20)"]

    def capabilities(reads) -> set[str]:
        child = confinement.start(wait, timeout_s=20, file_bytes=1, reads=reads)
        try:
            for _ in range(500):
                status = Path(f"/proc/{child.pid}/status").read_text()
                if Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0")[1:2] == [b"-c"]:
                    break
                time.sleep(0.01)
            return {line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapPrm", "CapBnd"))}
        finally:
            confinement.end(child)

    make(*picture(1), tmp_path / "own.mkv")
    assert capabilities([tmp_path / "own.mkv"]) == {"0000000000000000"}
    os.chown(tmp_path / "own.mkv", 12345, 12345)
    os.chmod(tmp_path / "own.mkv", 0o400)
    assert capabilities([tmp_path / "own.mkv"]) == {"0000000000000004"}  # CAP_DAC_READ_SEARCH
    info = probe(tmp_path / "own.mkv")
    assert decode_clip(tmp_path / "own.mkv", info, Clip("c", 0, 0, 1), DecodeSettings()).decoded_share == 1


@needs_all
def test_a_file_that_is_swapped_after_it_was_opened_is_not_read(tmp_path):
    (tmp_path / "medium").write_text("harmless")
    (tmp_path / "secret").write_text("secret")
    late = "import sys, time\nsys.stdin.read()\nprint(open(sys.argv[1]).read())"
    program = [sys.executable, "-c", late, str(tmp_path / "medium")]
    for swapped in (False, True):
        child = confinement.start(
            program, timeout_s=20, file_bytes=1, reads=[tmp_path / "medium"], stdin=-1, stdout=-1, stderr=-1
        )
        if swapped:
            (tmp_path / "medium").unlink()
            (tmp_path / "medium").symlink_to(tmp_path / "secret")
        said, complaint = child.communicate(b"", timeout=20)
        assert (said.strip(), b"PermissionError" in complaint) == ((b"", True) if swapped else (b"harmless", False))


# A kernel that grants less


@pytest.fixture
def old_kernel(monkeypatch):
    monkeypatch.setattr(confinement, "level", lambda: Level(0, False))


FORKS = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
print("forked", flush=True)
if sys.argv[2] == "stays":
    time.sleep(60)
"""


def marked(mark: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or []) and p.pid != os.getpid()]


@pytest.mark.parametrize("how", ["ends", "stays", "parent"])
def test_what_forked_ends_with_its_run_on_an_old_kernel(old_kernel, tmp_path, how):
    mark = f"mark-{tmp_path.name}-{os.getpid()}"
    program = [sys.executable, "-c", FORKS, mark, "ends" if how == "ends" else "stays"]
    if how == "parent":
        code = (
            "import sys, time\nfrom workers.media import confinement\n"
            "confinement.level = lambda: confinement.Level(0, False)\n"
            "confinement.start(sys.argv[1:], timeout_s=60, file_bytes=1)\ntime.sleep(60)"
        )
        here = str(Path(__file__).parents[2])
        parent = subprocess.Popen([sys.executable, "-c", code, *program], stdout=subprocess.PIPE, cwd=here)
        assert parent.stdout.readline() == b"forked\n"
        parent.kill()
        parent.wait()
    else:
        child = confinement.start(program, timeout_s=60, file_bytes=1, stdout=-1)
        assert child.stdout.readline() == b"forked\n"
        if how == "ends":
            assert child.wait(10) == 0
        else:
            assert len(marked(mark)) >= 3
        confinement.end(child)
    deadline = time.monotonic() + 10
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def test_a_reaper_ends_as_its_program_did(old_kernel):
    for code, status in (("import sys; sys.exit(7)", 7), ("import os; os.kill(os.getpid(), 24)", -signal.SIGXCPU)):
        child = confinement.start([sys.executable, "-c", code], timeout_s=20, file_bytes=1)
        assert child.wait(20) == status
        confinement.end(child)


def test_less_than_what_a_job_asks_for_is_refused(old_kernel):
    confinement.require("auto")
    confinement.require("rlimits")
    with pytest.raises(ConfinementMissing, match=r"kernel grants rlimits.*execution\.confinement: rlimits"):
        confinement.require("landlock+seccomp")


def test_levels_have_names():
    assert str(Level(7, True)) == "landlock-7+seccomp"
    assert (str(Level(1, False)), str(Level(0, True)), str(Level(0, False))) == ("landlock-1", "seccomp", "rlimits")
    assert [Level(1, True).is_full, Level(0, True).is_full, Level(4, False).is_full] == [True, False, False]


def test_a_kernel_that_takes_back_what_it_granted_runs_nothing(monkeypatch):
    """Landlock in place already, by a container: a rule for what is no file descriptor is refused."""
    monkeypatch.setattr(confinement, "made_of", lambda *_: ("d:/dev/null",))  # listing is no right of a file
    with pytest.raises(ConfinementMissing, match="the kernel refuses it"):
        ffmpeg.run([ffmpeg.find_ffmpeg(), "-version"], limits=ffmpeg.Limits(10, 1 << 20))


# Codecs


def test_codecs_that_nobody_needs_are_not_opened(tmp_path):
    make(*picture(1), "-c:v", "zmbv", tmp_path / "screen.avi")
    with pytest.raises(NoStreams, match="zmbv, which cannot be decoded"):
        probe(tmp_path / "screen.avi")
    info = MediaInfo("avi", 1.0, video_codec="zmbv", width=160, height=120, frame_rate=25.0)
    with pytest.raises(DecodeFailed):
        decode_clip(tmp_path / "screen.avi", info, Clip("c", 0, 0, 1), DecodeSettings())


@pytest.mark.parametrize(
    ("codec", "name"), [("prores_ks", "a.mov"), ("dnxhd", "a.mxf"), ("cinepak", "a.avi"), ("svq1", "a.mov")]
)
def test_codecs_of_cameras_and_old_files_are_read(tmp_path, codec, name):
    options = ["-pix_fmt", "yuv422p", "-b:v", "60M", "-s", "1280x720"] if codec == "dnxhd" else []
    make("-f", "lavfi", "-i", "testsrc=s=160x120:d=0.4:r=25", "-c:v", codec, *options, tmp_path / name)
    try:
        info = probe(tmp_path / name)
    except MediaError as error:
        pytest.fail(str(error))
    assert decode_clip(tmp_path / name, info, Clip("c", 0, 0, 0.4), DecodeSettings(fps=5)).decoded_share == 1


def test_an_environment_made_of_links_can_probe(tmp_path):
    """As uv makes one with `--link-mode symlink`: the packages lie outside."""
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    installed, own = Path(sysconfig.get_path("purelib")), Path(__file__).parents[2]
    for place in (*(own / name for name in ("workers", "omnidrop")), *installed.iterdir()):
        if place.suffix != ".pth" and not (packages / place.name).exists():
            (packages / place.name).symlink_to(place)
    # Files, too, of the package that is loaded from outside.
    (packages / "av").unlink()
    shutil.copytree(installed / "av", packages / "av", copy_function=os.symlink)
    asked = "from workers.media.probing import prober_problem as p; print(p())"
    command = [home / "bin/python", "-c", asked]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert said.stdout == "None\n"

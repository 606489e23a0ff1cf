"""Real mail servers for integration tests: Debian's Postfix and Exim, extracted rather than installed, on loopback.

Each runs as a plain process tree of its own with its own configuration, queue and ports, and is gone when its block
ends; nothing of the system is changed (Exim's user exists only in its mount namespace). ``Unavailable`` says why one
can't be had; tests skip with that sentence.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fullsend" / "servers"
STARTS = 20.0  # seconds a server may take until it listens


class Unavailable(Exception):
    pass


def extracted(*packages: str) -> Path:
    """The root of a tree into which the Debian packages were extracted; kept for the next run."""
    root = CACHE / "-".join(packages)
    if root.exists():
        return root
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{packages[0]} is extracted from Debian's package, and there is no {tool}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
        done = subprocess.run(download, cwd=work, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise Unavailable(f"{packages[0]} can't be downloaded ({done.stderr.strip()[-200:]}): run apt-get update")
        tree = Path(work) / "tree"
        for package in Path(work).glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, tree], check=True, timeout=60)
        with contextlib.suppress(OSError):  # another test process was first
            tree.rename(root)
    return root


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@dataclass(frozen=True)
class Server:
    """``port`` offers STARTTLS, ``tls_port`` speaks TLS at once; the certificate is for localhost, by ``ca``."""

    port: int
    tls_port: int
    ca: str
    folder: Path
    log: Path

    def log_text(self, wanted: str, count: int = 1) -> str:
        """The log, once ``wanted`` is in it ``count`` times: deliveries end after the relay's 250."""
        deadline = time.monotonic() + 15
        while True:
            text = self.log.read_text(errors="replace") if self.log.exists() else ""
            if text.count(wanted) >= count or time.monotonic() > deadline:
                return text
            time.sleep(0.05)


@contextlib.contextmanager
def _folder(authority: trustme.CA) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fullsend-mta-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        yield folder


@contextlib.contextmanager
def _running(command: list[str], ports: list[int], output: Path, environment: dict[str, str]) -> Iterator[None]:
    with output.open("ab") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env={"PATH": os.environ["PATH"], **environment},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + STARTS
        for port in ports:
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    said = output.read_text(errors="replace")[-1000:]
                    if "not permitted" in said:
                        raise Unavailable(f"{command[0]} is not permitted here: {said}")
                    raise RuntimeError(f"the server does not start: {said}")
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)


def _needs_root(name: str) -> None:
    if os.geteuid() != 0:
        raise Unavailable(f"{name} changes its user, so this test runs as root only")


@contextlib.contextmanager
def postfix(authority: trustme.CA, **settings: str) -> Iterator[Server]:
    """Every recipient is taken and discarded, but for local parts that begin with "bad" (5.1.1) or "grey" (4.2.0)."""
    _needs_root("Postfix")
    root = extracted("postfix")
    users = _postfix_users()
    with _folder(authority) as folder:
        port, tls_port = free_ports(2)
        config, queue, data = folder / "config", folder / "queue", folder / "data"
        owner = pwd.getpwnam(users[0])
        for name in (
            "active",
            "bounce",
            "corrupt",
            "defer",
            "deferred",
            "flush",
            "hold",
            "incoming",
            "private",
            "saved",
        ):
            (queue / name).mkdir(parents=True)
        for name in ("trace", "maildrop", "public", "pid"):
            (queue / name).mkdir()
        data.mkdir()
        for path in (data, *(each for each in queue.iterdir() if each.name != "pid")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        config.mkdir()
        library = root / "usr/lib/postfix"
        log = folder / "mail.log"
        given = {
            "compatibility_level": "3.6",
            "queue_directory": str(queue),
            "command_directory": str(root / "usr/sbin"),
            "daemon_directory": str(library / "sbin"),
            "meta_directory": str(config),
            "shlib_directory": str(library),
            "data_directory": str(data),
            "mail_owner": users[0],
            "setgid_group": users[1],
            "default_privs": "nobody",
            "maillog_file": str(log),
            "maillog_file_prefixes": str(folder),
            "import_environment": "LD_LIBRARY_PATH MAIL_CONFIG LANG=C",
            "export_environment": "LD_LIBRARY_PATH MAIL_CONFIG LANG",
            "myhostname": "postfix.example",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "mydestination": "",
            "alias_maps": "",
            "default_transport": "discard:",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": str(folder / "server.pem"),
            "smtpd_recipient_restrictions": f"check_recipient_access regexp:{config}/recipients permit_mynetworks",
            "smtpd_relay_restrictions": "permit_mynetworks reject",
            "smtpd_error_sleep_time": "0",
            "smtpd_peername_lookup": "no",
            **settings,
        }
        (config / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in given.items()))
        (config / "recipients").write_text("/^bad/ 550 5.1.1 User unknown\n/^grey/ 450 4.2.0 Greylisted, come back\n")
        services = ["cleanup unix n - n - 0", "qmgr unix n - n 300 1", "rewrite unix - - n - - trivial-rewrite"]
        services += [f"{name} unix - - n - 0 bounce" for name in ("bounce", "defer", "trace")]
        services += [f"{name} unix - - n - - {name}" for name in ("discard", "error")]
        services += ["tlsmgr unix - - n 1000? 1", "anvil unix - - n - 1", "proxymap unix - - n - -"]
        services += ["postlog unix-dgram n - n - 1 postlogd", f"127.0.0.1:{port} inet n - n - - smtpd"]
        services += [f"127.0.0.1:{tls_port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes"]
        lines = [line if line.count(" ") > 6 else f"{line} {line.split()[0]}" for line in services]
        (config / "master.cf").write_text("\n".join(lines) + "\n")
        environment = {"LD_LIBRARY_PATH": str(library), "MAIL_CONFIG": str(config)}
        command = [str(library / "sbin/master"), "-s", "-c", str(config)]
        with _running(command, [port, tls_port], folder / "master.out", environment):
            yield Server(port, tls_port, authority.cert_pem.bytes().decode(), folder, log)


def _postfix_users() -> tuple[str, str]:
    """An owner and a setgid group that Postfix may have to itself; any that nothing else here runs as."""
    names = {user.pw_name for user in pwd.getpwall()}
    for owner, group in (("postfix", "postdrop"), ("backup", "games"), ("news", "games")):
        if owner in names and (group == "postdrop" or group in names):
            return owner, group
    raise Unavailable("no system user is left to run Postfix as")


EXIM = """
exim_path = {root}/usr/sbin/exim4
exim_user = Debian-exim
deliver_drop_privilege = true
spool_directory = {folder}/spool
log_file_path = {folder}/exim_%s.log
pid_file_path = {folder}/exim.pid
primary_hostname = exim.example
daemon_smtp_ports = {port} : {tls_port}
tls_on_connect_ports = {tls_port}
local_interfaces = 127.0.0.1
tls_advertise_hosts = *
tls_certificate = {folder}/server.pem
tls_privatekey = {folder}/server.pem
host_lookup =
rfc1413_query_timeout = 0s
message_size_limit = 1M
keep_environment =
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
{settings}
begin acl
rcpt:
  deny local_parts = ^bad
       message = 5.1.1 No such user here
  defer local_parts = ^grey
       message = 4.2.0 Greylisted, try again later
  accept
begin routers
all:
  driver = accept
  transport = keep
begin transports
keep:
  driver = appendfile
  directory = {folder}/mail
  maildir_format
  user = Debian-exim
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{ursula}}}}{{eq{{$auth3}}{{s3cret}}}}}}}}
  server_set_id = $auth2
  server_advertise_condition = ${{if def:tls_in_cipher}}
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{eq{{$auth1}}{{ursula}}}}{{eq{{$auth2}}{{s3cret}}}}}}}}
  server_set_id = $auth1
  server_advertise_condition = ${{if def:tls_in_cipher}}
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{ursula}}{{s3cret}}fail}}
  server_set_id = $auth1
"""


@contextlib.contextmanager
def exim(authority: trustme.CA, settings: str = "") -> Iterator[Server]:
    """Recipients as for ``postfix``; what is accepted lies in folder/mail/new. AUTH: ursula, s3cret."""
    _needs_root("Exim")
    root = extracted("exim4-daemon-light", "libidn12")
    if shutil.which("unshare") is None:
        raise Unavailable("Exim needs its own user, and there is no unshare to give it one")
    with _folder(authority) as folder:
        port, tls_port = free_ports(2)
        uid = next(uid for uid in range(990, 100, -1) if uid not in {user.pw_uid for user in pwd.getpwall()})
        (folder / "passwd").write_text(
            Path("/etc/passwd").read_text() + f"Debian-exim:x:{uid}:{uid}::{folder}:/bin/false\n"
        )
        (folder / "group").write_text(Path("/etc/group").read_text() + f"Debian-exim:x:{uid}:\n")
        for name in ("spool", "mail"):
            (folder / name).mkdir()
            os.chown(folder / name, uid, uid)
        os.chown(folder / "server.pem", uid, uid)
        os.chown(folder, uid, uid)
        config = folder / "exim.conf"
        config.write_text(EXIM.format(root=root, folder=folder, port=port, tls_port=tls_port, settings=settings))
        library = root / "usr/lib/x86_64-linux-gnu"
        script = (
            f"mount --bind {folder}/passwd /etc/passwd && mount --bind {folder}/group /etc/group && "
            f"exec {root}/usr/sbin/exim4 -bdf -C {config}"
        )
        command = ["unshare", "--mount", "sh", "-c", script]
        environment = {"LD_LIBRARY_PATH": str(library)}
        with _running(command, [port, tls_port], folder / "exim.out", environment):
            yield Server(port, tls_port, authority.cert_pem.bytes().decode(), folder, folder / "exim_main.log")

"""Installs the servers that the tests start: ``make servers``.

Debian's packages, if apt-get is there; else it says what to install.  The packages' own services are not started, and
those of packages that are new here are not enabled either: the tests start servers of their own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.servers import postgres, rabbitmq
from tests.servers.ground import MissingServerError, find_program

# Program, package of Debian, package of Homebrew, where it may be.
PROGRAMS = [
    ("redis-server", "redis-server", "redis", ()),
    ("redis-cli", "redis-tools", "redis", ()),
    ("initdb", "postgresql", "postgresql@17", postgres.BINARIES),
    ("postgres", "postgresql", "postgresql@17", postgres.BINARIES),
    ("pg_basebackup", "postgresql", "postgresql@17", postgres.BINARIES),
    ("psql", "postgresql", "postgresql@17", postgres.BINARIES),
    ("rabbitmq-server", "rabbitmq-server", "rabbitmq", rabbitmq.SCRIPTS),
    ("rabbitmqctl", "rabbitmq-server", "rabbitmq", rabbitmq.SCRIPTS),
    ("epmd", "erlang-base", "erlang", ()),
    ("nats-server", "nats-server", "nats-server", ()),
]
SERVICES = {
    "redis-server": ["redis-server"],
    "postgresql": ["postgresql"],
    "rabbitmq-server": ["rabbitmq-server", "epmd.socket"],
    "nats-server": ["nats-server"],
}
POLICY = Path("/usr/sbin/policy-rc.d")


def missing(column=1):
    """Return the packages that are needed: of Debian, or with ``column=2`` of Homebrew."""
    packages = []
    for row in PROGRAMS:
        try:
            find_program(row[0], row[1], *row[3])
        except MissingServerError:
            packages.append(row[column])
    return list(dict.fromkeys(packages))


def as_root(*words, check=True):
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*sudo, *map(str, words)], check=check)


def install(packages):
    """Install packages of Debian, and start none of their services."""
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    apt += ["-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]
    forbids = not POLICY.exists()
    try:
        if forbids:
            as_root("sh", "-c", f"printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}")
        # Somebody's third-party source may be broken; whether ours is, the next command finds out.
        as_root(*apt, "update", check=False)
        as_root(*apt, "install", "--no-install-recommends", *packages)
    finally:
        if forbids:
            as_root("rm", "-f", POLICY)
    if Path("/run/systemd/system").is_dir():
        for service in [name for package in packages for name in SERVICES.get(package, [])]:
            as_root("systemctl", "disable", "--quiet", service)


def main():
    packages = missing()
    if not packages:
        return None
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        return (
            f"The tests start servers of their own, and this system lacks some of them.\n"
            f"  With Homebrew:  brew install {' '.join(missing(column=2))}   (start no service of it)\n"
            f"  Elsewhere:      install what gives the programs of Debian's packages {names}"
        )
    if os.geteuid() != 0 and shutil.which("sudo") is None:
        return f"The tests need Debian's packages {names}; become root (there is no sudo) and run: make servers"
    print(f"Installing the servers that the tests start: {names}", flush=True)
    try:
        install(packages)
    except subprocess.CalledProcessError as error:
        return (
            f"apt-get could not install {names} (status {error.returncode}, its reasons are above).\n"
            "Where a distribution has no nats-server: https://github.com/nats-io/nats-server/releases"
        )
    if left := missing():
        return f"apt-get has ended well, and what these packages should bring is still not there: {' '.join(left)}"
    return None


if __name__ == "__main__":
    sys.exit(main())

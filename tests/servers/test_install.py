"""What `make servers` does and says; whether apt-get works is asked on a fresh machine, by running it."""

import os
import shutil
import subprocess

import pytest

from tests.servers import install
from tests.servers.ground import MissingServerError


@pytest.fixture
def commands(monkeypatch):
    """Commands that would have been run as root."""
    run = []
    monkeypatch.setattr(subprocess, "run", lambda words, **options: run.append(" ".join(words)))
    return run


@pytest.fixture
def lacking(monkeypatch):
    """Let programs be missing until apt-get was run."""

    def lack(*programs, until=()):
        def find(program, package, *places):
            if program in programs and not any("install" in command for command in until):
                raise MissingServerError(program, package)

        monkeypatch.setattr(install, "find_program", find)

    return lack


@pytest.fixture
def machine(monkeypatch):
    """A machine with some programs, and one who is root or not."""

    def be(*programs, root):
        monkeypatch.setattr(shutil, "which", lambda name, **_: f"/usr/bin/{name}" if name in programs else None)
        monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)

    return be


def test_where_everything_is_there_nothing_is_done(commands):
    assert install.main() is None
    assert commands == []


def test_what_is_missing_is_installed_and_no_service_is_started(commands, lacking, machine, capsys):
    machine("apt-get", root=True)
    lacking("nats-server", "epmd", until=commands)
    assert install.main() is None
    (update,) = [number for number, command in enumerate(commands) if command.endswith(" update")]
    (got,) = [number for number, command in enumerate(commands) if " install " in command]
    assert update < got
    assert commands[got].endswith("install --no-install-recommends erlang-base nats-server")
    assert "DEBIAN_FRONTEND=noninteractive" in commands[got]
    assert "erlang-base nats-server" in capsys.readouterr().out
    if not install.POLICY.exists():
        assert "exit 101" in commands[0]
        assert f"rm -f {install.POLICY}" in commands[got:]


def test_the_ban_on_services_is_lifted_after_a_failure(monkeypatch, lacking, machine, tmp_path, capsys):
    machine("apt-get", "sudo", root=False)
    lacking("nats-server")
    monkeypatch.setattr(install, "POLICY", tmp_path / "policy-rc.d")
    run = []

    def fail(words, *, check):
        run.append(words)
        if "install" in words:
            raise subprocess.CalledProcessError(100, words)

    monkeypatch.setattr(subprocess, "run", fail)
    assert "could not install nats-server (status 100" in install.main()
    assert all(words[0] == "sudo" for words in run)
    assert "exit 101" in " ".join(run[0])
    assert run[-1] == ["sudo", "rm", "-f", str(tmp_path / "policy-rc.d")]


def test_a_package_that_brings_nothing_is_noticed(commands, lacking, machine):
    machine("apt-get", root=True)
    lacking("nats-server")
    assert "still not there: nats-server" in install.main()


def test_other_systems_are_told_what_to_install(commands, lacking, machine):
    machine(root=False)
    lacking("psql", "initdb", "redis-cli")
    said = install.main()
    assert "brew install redis postgresql@17 " in said
    assert "redis-tools postgresql" in said
    assert commands == []


def test_without_root_and_sudo_one_is_told_to_become_root(commands, lacking, machine):
    machine("apt-get", root=False)
    lacking("nats-server")
    assert "become root" in install.main()
    assert commands == []


def test_every_program_that_the_servers_look_for_is_known():
    assert {"redis-server", "redis-cli", "initdb", "rabbitmqctl", "epmd", "nats-server"} <= {
        row[0] for row in install.PROGRAMS
    }
    assert set(install.SERVICES) <= {row[1] for row in install.PROGRAMS}

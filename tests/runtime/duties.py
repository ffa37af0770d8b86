"""What processes are told to do in the tests.  A child imports this, so it imports little."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs


def pid():
    return os.getpid()


def add(a, *, b=0):
    return a + b


def write_pid(path):
    """Tell which process this is, once it is complete."""
    new = Path(f"{path}.new")
    new.write_text(str(os.getpid()), encoding="ascii")
    new.replace(path)


def hang(path):
    write_pid(path)
    while True:
        time.sleep(1)


def wait_for(path, until):
    write_pid(path)
    while not Path(until).exists():
        time.sleep(0.01)
    return "finished"


def fail(message):
    raise LookupError(message)


def leave(code):
    sys.exit(code)


def interrupt():
    raise KeyboardInterrupt


def die(code):
    os._exit(code)


def die_by(number):
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(10)


def die_by_interrupt_once(path):
    if not Path(path).exists():
        Path(path).touch()
        die_by(signal.SIGINT)
    return "done"


def blocked_signals():
    return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def abort():
    os.abort()


def starts_a_program():
    return subprocess.run([sys.executable, "-c", "print('hello')"], capture_output=True, text=True, check=True).stdout


class PickyError(Exception):
    """Wants more arguments than it tells its base class."""

    def __init__(self, number, *, text):
        super().__init__(f"{number}: {text}")
        self.number = number


class StuckError(Exception):
    """Holds what cannot be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class OneWayError(Exception):
    """Can be pickled, but not be made again."""

    def __reduce__(self):
        return OneWayError._made, (str(self),)

    @staticmethod
    def _made(text):
        raise TypeError("no way back")


def fail_picky():
    raise PickyError(3, text="no")


def fail_stuck():
    raise StuckError("no way out")


def fail_one_way():
    raise OneWayError("no return")


def fail_in_a_group():
    raise ExceptionGroup("both", [LookupError("one"), ValueError("two")])


def return_a_lock():
    return threading.Lock()


class ReturnsWrong:
    def __reduce__(self):
        return fail, ("cannot be made again",)


def return_what_cannot_be_made_again():
    return ReturnsWrong()


@attrs.define
class SlottedError(Exception):
    """Keeps its fields in slots."""

    code: int


def fail_slotted():
    raise SlottedError(7)


def fail_after_another():
    try:
        fail_stuck()
    except StuckError as exc:
        raise LookupError("in the end") from exc


def retry():
    from trepid.values.verbs import Retry

    raise Retry(7, reason="later")

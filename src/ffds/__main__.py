"""``ffds``, ``python -m ffds``: the command line as a process of its own, also under torchrun."""

import signal
import sys

__all__ = ["run"]


def run() -> int:
    """Run the command that this process is for, and return its exit code.

    Ctrl-C where no training saves its state ends it with one line: here, where it is heard from the first
    import on.
    """
    try:
        from ffds.cli import main
        from ffds.environment import collect_rarely

        collect_rarely()
        return main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from ffds.errors import Interrupted, tell

        tell("error: interrupted; the same command goes on from what is saved")
        return Interrupted.exit_code
    finally:
        # Only the interpreter's own end is left.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(run())

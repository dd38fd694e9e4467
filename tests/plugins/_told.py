"""For tests/unit/test_nursery.py: a module that says where it is, and ends as it is told to."""

import atexit
import os
import signal
import sys
import threading
import time

if __name__ == "__main__":
    atexit.register(print, "at exit")
    print([*sys.argv[1:], os.getcwd(), os.environ.get("HERE"), os.environ.get("GONE"), sys.stdin.read()], flush=True)
    print("said on stderr", file=sys.stderr)
    if sys.argv[1] == "exit":
        sys.exit(int(sys.argv[2]))
    if sys.argv[1] == "raise":
        raise ValueError("so it ends")
    if sys.argv[1] == "thread":
        threading.Thread(target=lambda: (time.sleep(0.1), print("from a thread"))).start()
    if sys.argv[1] == "wait":
        signal.pause()

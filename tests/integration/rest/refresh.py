"""Run as a program: log in by the saved login of a home directory, and say which token the platform was shown."""

import sys
from pathlib import Path

from canfar_batch.rest import open_platform

with open_platform(sys.argv[2], env={}, home=Path(sys.argv[1])) as platform:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(platform.logs("abcd1234").decode() + "\n")
    sys.stdout.flush()

#!/bin/sh
# Prints the first Python on PATH that is new enough (3.11) and can make a virtual environment.
for python in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$python"
        exit 0
    fi
done
echo 'cannot find Python 3.11 or newer with venv; on Debian: apt-get install python3-venv' >&2
exit 1

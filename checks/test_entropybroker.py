# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's entropybroker as the daemon of rng-egd, its rate and restarts.

The broker gets bytes from a source, and its EGD server hands them out. Near
the quota of a user, an answer is shorter than the request; at the quota, after
some 110 words, the server pauses for 15 s, or for a minute with the broker's
default.
"""

import contextlib
import os
import signal
import socket
import subprocess

import pytest

from testlib.limits import until

# Start the broker, a source that fills it, and its EGD server, and again when
# one of them has ended: version 2.9 sometimes damages its heap, which malloc()
# notices. The broker keeps pools in /var/cache, where others would find them.
# A user's rate is in bits a second.
PROGRAMS = r'''
umask 077
cat /etc/entropybroker/entropy_broker.conf - >conf <<END
listen_adapter = ::FFFF:127.0.0.1
listen_port = $0
webserver_port = -1
reset_counters_interval = 1
allow_prng = 1
END
password=my_password1234123492348
printf "%s|$password|%s\n" guest 2048 source 8192 >users.txt
for user in guest source; do
    printf '%s\n' $user $password >$user
done
broker="-I 127.0.0.1:$0"
mount -t tmpfs tmpfs /var/cache
while :; do
    rm -f egd
    entropy_broker -n -P broker.pid -c conf &
    eb_server_stream -n -P source.pid $broker -X source -d /dev/urandom &
    eb_client_egd -n -P egd.pid $broker -X guest -d egd &
    wait -n || true
    kill -9 $(jobs -p) || true
    wait
    sleep 1
done >log 2>&1'''


@pytest.fixture
def broker(tmp_path):
    """The directory of the programs, and of their socket "egd"."""
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
            ['unshare', '-m', 'bash', '-euc', PROGRAMS, str(port)],
            cwd=tmp_path, start_new_session=True) as programs:
        yield tmp_path
        os.killpg(programs.pid, signal.SIGKILL)


def test_rate_and_restarts(broker, guest):
    """The guest gets most of its rate, on and on, also after a restart."""
    vm = guest('rng-egd,chardev=egd', '-chardev',
               f'socket,id=egd,path={broker}/egd,reconnect-ms=50', timeout=0)
    vm.call(2 ** 20)
    until(lambda: vm.count() >= 150)
    # The programs may be starting again just now, which is as good.
    with contextlib.suppress(ProcessLookupError, ValueError):
        os.kill(int((broker / 'broker.pid').read_text()), signal.SIGKILL)
    enough = vm.count() + 40
    until(lambda: vm.count() >= enough)
    words = vm.values()
    assert len(set(words)) == len(words)

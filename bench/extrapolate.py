# SPDX-License-Identifier: GPL-2.0-or-later
"""Compute figures for a host with 1,000 guests from those of a few guests."""

import math

GUESTS = 1000
TIMEOUT = 1         # seconds: the device's default
REQUEST = 255       # bytes: the most that EGD's protocol asks for at once
SOURCES = (10 ** 4, 10 ** 5, 10 ** 6)   # bytes per second, of hardware


def number(value):
    """A number with two or three significant digits."""
    if value >= 100:
        return f'{float(f"{value:.3g}"):,.0f}'
    return f'{value:.2g}'


def row(what, value, unit, how):
    return f'| {what} | {number(value)} {unit} | {how} |'


def need(facts):
    """What guests need at boot and when they are idle, and its cost."""
    boot, idle = facts['boot_bytes'], facts['idle_bytes_per_s']
    ns, daemon = facts['urandom_ns'], facts['daemon_ns_per_byte']
    memory = max(0, *facts['memory_kib'].values())
    return [
        row('all boot at once', GUESTS * boot, 'bytes',
            f'{GUESTS:,} × {boot}'),
        row('— from urandom', GUESTS * boot / 8 * ns / 1e6,
            'ms of one core', f'{GUESTS:,} × {boot} / 8 × {number(ns)} ns'),
        row('— from one EGD daemon', GUESTS * boot * daemon / 1e6,
            'ms of its core',
            f'{GUESTS:,} × {boot} × {number(daemon)} ns'),
        row('all idle', GUESTS * idle, 'bytes/s',
            f'{GUESTS:,} × {number(idle)} bytes/s'),
        row('— from urandom', GUESTS * idle / 8 * ns / 1e7,
            '% of one core',
            f'{GUESTS:,} × {number(idle)} / 8 × {number(ns)} ns'),
        row('memory of all devices, at most', GUESTS * memory / 1024, 'MiB',
            f'{GUESTS:,} × {memory} KiB')]


def greedy(facts):
    """What guests get, and its cost, if each of them calls all the time."""
    ns, daemon = facts['urandom_ns'], facts['daemon_ns_per_byte']
    egd, quota, wait = facts['egd_ns'], facts['quota'], facts['quota_ns']
    most = 1e9 / daemon
    return [
        row('urandom, no quota: a guest that does nothing else takes',
            8e9 / ns, 'bytes/s', f'8 bytes / {number(ns)} ns'),
        row('one EGD daemon, no quota: each guest gets, at most',
            most / GUESTS, 'bytes/s', f'1 / {number(daemon)} ns / {GUESTS:,}'),
        row('— which keeps busy, of the guests', most / 8 * egd / 1e9, 'cores',
            f'{number(most)} bytes/s / 8 × {number(egd)} ns'),
        row('— and with a quota of half of that', most / GUESTS / 2,
            'bytes/s', 'the daemon is idle half of the time'),
        row(f'max-bytes={quota},period=1000: they wait', GUESTS * quota / 8,
            'times/s', f'{GUESTS:,} × {quota} / 8'),
        row('— which keeps busy', GUESTS * quota / 8 * wait / 1e9, 'cores',
            f'× {number(wait)} ns'),
        row('— with this quota, one core', 8e9 / wait / GUESTS, 'bytes/s',
            f'8 bytes / {number(wait)} ns / {GUESTS:,}')]


def hardware(facts):
    """A table for slow sources behind an EGD daemon, a row for each rate."""
    boot, idle = facts['boot_bytes'], facts['idle_bytes_per_s']
    lines = [
        '| rate of the source | a guest gets | idle guests take of it | all '
        'boot within | a request waits | with pool-size=8 | quota | timeout |',
        '| --- | --- | --- | --- | --- | --- | --- | --- |']
    for rate in SOURCES:
        share = rate / GUESTS
        waits = [GUESTS * size / rate for size in (REQUEST, 8)]
        timeout = max(TIMEOUT, math.ceil(2 * (8 / share + waits[1])))
        lines.append(' | '.join([
            f'| {rate:,} bytes/s', f'{number(share)} bytes/s',
            f'{number(100 * idle / share)} %', f'{number(boot / share)} s',
            *(f"{number(wait)} s{', times out' if wait > TIMEOUT else ''}"
              for wait in waits),
            f'max-bytes={rate // GUESTS},period=1000',
            f'{timeout * 1000} |']))
    return [*lines, '',
            f'A guest gets the rate / {GUESTS:,}, which is its quota. A '
            'request waits for one of each other guest: '
            f'{GUESTS:,} × {REQUEST} bytes / rate, or {GUESTS:,} × 8 bytes / '
            f'rate with pool-size=8; the default timeout is {TIMEOUT} s. The '
            'timeout in the table is twice what a call waits with this quota '
            'and pool-size=8 when all guests call: 8 bytes / quota + the '
            "request's wait."]


def lines_of(facts):
    return [f'## {GUESTS:,} guests, computed', '',
            '| | | |', '| --- | --- | --- |', *need(facts), '',
            'If each of them takes all that it can get:', '',
            '| | | |', '| --- | --- | --- |', *greedy(facts), '',
            'A slow source by way of an EGD daemon:', '', *hardware(facts)]

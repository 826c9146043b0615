# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables and the figure of the results of bench/compare.py."""

import subprocess
import tempfile

from testlib import TOP

# The durations of a result, and the share of calls that took no longer
FIGURES = {'p50_ns': 0.5, 'p99_ns': 0.99, 'p999_ns': 0.999, 'max_ns': 1}
HEADS = ['p50', 'p99', 'p99.9', 'max']


def best(rounds):
    """The round with the highest throughput, or one with a hang, if any."""
    def rank(figures):
        return ('hangs_after_s' in figures, figures.get('calls_per_s', 0),
                figures.get('bytes_per_s', 0))
    return max(rounds, key=rank)


def nanoseconds(value):
    """A duration with a readable unit and three digits."""
    for unit, factor in (('ms', 1e6), ('µs', 1e3)):
        if value >= factor:
            value /= factor
            return f'{value:.{max(0, 3 - len(str(int(value))))}f} {unit}'
    return f'{value} ns'


def hangs(figures):
    return f"hangs: no answer in {figures['hangs_after_s']} s"


def cells(rounds, rate):
    figures = best(rounds)
    if 'hangs_after_s' in figures:
        return [hangs(figures), *[''] * len(FIGURES)]
    return [*(nanoseconds(figures[key]) for key in FIGURES),
            f'{figures[rate]:,}']


def table(head, rows):
    return ['| ' + ' | '.join(map(str, row)) + ' |'
            for row in [head, ['---'] * len(head), *rows]] + ['']


def null_rows(entries):
    """The best round of the null hypercall, for each QEMU and vCPU number."""
    for key in dict.fromkeys((e['vcpus'], e['qemu']) for e in entries):
        rounds = sum((e['null'] for e in entries
                      if (e['vcpus'], e['qemu']) == key), [])
        yield ['null hypercall', *key, *cells(rounds, 'calls_per_s')]


def bare_metal(entries):
    rows = [*null_rows(entries),
            *([e['source'], e['vcpus'], e['qemu'],
               *cells(e['random'], 'calls_per_s')]
              for e in entries if 'pool_size' not in e)]
    return ["Hypercalls of a bare-metal guest, one after the other on each "
            "vCPU. Durations are by the guest's time base, and include one "
            "reading of it; the rate is measured without.", '',
            *table(['source', 'vCPUs', 'QEMU', *HEADS, 'calls/s'], rows)]


def pools(entries):
    rows = [[e['source'], e['pool_size'], *cells(e['random'], 'calls_per_s')]
            for e in entries if 'pool_size' in e]
    return ['The same, ours with 1 vCPU, by `pool-size`.', '',
            *table(['source', 'pool-size', *HEADS, 'calls/s'], rows)]


def slow_row(entry):
    figures = best(entry['slow'])
    chunk, ms = entry['chunk'], entry['chunk_ms']
    return [f'{chunk} bytes each {ms} ms', entry['qemu'],
            f'{chunk * 1000 // ms:,}', f"{figures['bytes_per_s']:,}",
            *(f'{figures[key]} ms' if key in figures else hangs(figures)
              for key in ('monitor_median_ms', 'monitor_worst_ms', 'stop_ms'))]


def slow(entries):
    return ["A source like a TPM's generator, whose reads take as long "
            'although they must not wait, and a guest that calls all the '
            'time: what the source could give, what the guest got, how soon '
            'the monitor answers, and how long `stop` takes.', '',
            *table(['source', 'QEMU', 'bytes/s', 'got', 'monitor, median',
                    'worst', 'stop'], map(slow_row, entries))]


def linux(entries):
    rows = [[device, e['source'], e['vcpus'], e['qemu'],
             *cells(e[device], 'bytes_per_s')]
            for device in ('spapr-rng', 'virtio-rng-pci') for e in entries]
    return ['Reads of `/dev/hwrng` in Linux, by one process on each vCPU: '
            'durations of 8 bytes, for which spapr-rng gets one call and '
            'virtio-rng keeps what is left of an earlier request; the rate '
            'with 4096 bytes at a time.', '',
            *table(['device', 'source', 'vCPUs', 'QEMU', *HEADS, 'bytes/s'],
                   rows)]


def markdown(found):
    return ['`ours` is this device, `peer` the one that QEMU has, both built '
            'of the same base with the same flags and measured in turn. The '
            'best of all rounds; `bench.json` has each. Where there are more '
            'vCPUs than cores, they wait for each other.', '',
            *bare_metal(found['bare_metal']), *pools(found['bare_metal']),
            *slow(found['slow']), *linux(found['linux'])[:-1]]


def points(entries):
    """The lines of gnuplot's data: position, figures, label and source."""
    entries = [e for e in entries if e['vcpus'] == 1 and 'pool_size' not in e]
    sources = list(dict.fromkeys(e['source'] for e in entries))
    for number, series in enumerate(('null', 'ours', 'peer')):
        for group, source in enumerate(sources):
            call = 'null' if series == 'null' else 'random'
            figures = best(sum((
                e[call] for e in entries if e['source'] == source
                and series in ('null', e['qemu'])), []))
            place = group + (number - 1) * 0.27
            label = nanoseconds(figures['p50_ns']) if 'p50_ns' in figures \
                else 'hangs'
            yield [place, *(figures.get(key, 'NaN') for key in FIGURES),
                   f'"{label}"', source]
        yield []
        yield []


def plot(found, path):
    with tempfile.NamedTemporaryFile('w', suffix='.dat') as data:
        for point in points(found['bare_metal']):
            print(*point, file=data)
        data.flush()
        subprocess.run(['gnuplot', '-e', f"data='{data.name}'", '-e',
                        f"out='{path}'", TOP / 'bench/plot.gp'], check=True)

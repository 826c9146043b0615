# SPDX-License-Identifier: GPL-2.0-or-later
#
# gnuplot -e "data='FILE'" -e "out='FILE.svg'" plot.gp
#
# Each series is a block of the data. Its columns are x, p50, p99, p99.9, max, a
# label for p50, or for a series without one, and the group.

set encoding utf8
set terminal svg size 760,420 font 'sans-serif,13' background '#ffffff'
set output out

set title 'How long an H\_RANDOM call takes: 1 vCPU, guest''s time base' \
    font ',15'
set logscale y
set yrange [20:2e9]
set ytics ('10 ns' 10, '100 ns' 100, '1 µs' 1e3, '10 µs' 1e4, '100 µs' 1e5, \
    '1 ms' 1e6, '10 ms' 1e7, '100 ms' 1e8, \
    '1 s' 1e9) nomirror
set grid ytics lc '#e4e4e4' lt 1
set border 3 lc '#707070'
set xtics scale 0
set xrange [-0.5:2.5]
set key outside right center Left reverse samplen 1.5 spacing 1.3

colour(n) = n == 0 ? 0x808080 : n == 1 ? 0x0072b2 : 0xd55e00
array names = ['null hypercall', 'this device', "QEMU's own"]

# The line is from p50 to p99.9.
plot for [n = 0:2] data index n using 1:2:(0):(column(4) - column(2)) \
        with vectors nohead lw 2.5 lc rgb colour(n) notitle, \
    for [n = 0:2] data index n using 1:2 \
        with points pt 7 ps 1.1 lc rgb colour(n) title names[n + 1], \
    for [n = 0:2] data index n using 1:5 \
        with points pt 6 ps 0.6 lw 1.5 lc rgb colour(n) notitle, \
    for [n = 0:2] data index n using 1:(valid(2) ? column(2) / 1.8 : 3e7):6 \
        with labels font ',12' tc rgb colour(n) notitle, \
    data index 1 using 1:(NaN):xtic(7) notitle, \
    NaN with points pt 7 ps 1.1 lc rgb '#404040' title 'p50', \
    NaN with lines lw 2.5 lc rgb '#404040' title 'up to p99.9', \
    NaN with points pt 6 ps 0.6 lw 1.5 lc rgb '#404040' title 'maximum'

<?php
// An empty call of a user function: prints nanoseconds, the loop around it taken off, the best of
// many. `on`: with records written.
require __DIR__ . '/../phpt/trace.inc';

function nothing() {}

if (($argv[1] ?? '') === 'on') {
    t_on((int) ($argv[3] ?? ON));
}
$calls = (int) ($argv[2] ?? 300000);
$best = $empty = PHP_INT_MAX;
for ($round = 0; $round < 25; $round++) {
    $begun = hrtime(true);
    for ($i = 0; $i < $calls; $i++) {}
    $empty = min($empty, hrtime(true) - $begun);
    $begun = hrtime(true);
    for ($i = 0; $i < $calls; $i++) { nothing(); }
    $best = min($best, hrtime(true) - $begun);
}
printf("%.2f\n", ($best - $empty) / $calls);

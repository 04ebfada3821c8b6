--TEST--
Several threads: the first is traced, the others are not, and the process is not called idle
--SKIPIF--
<?php if (!function_exists('threads_start')) die('skip this PHP is not thread-safe'); ?>
--FILE--
<?php
require __DIR__ . '/trace.inc';
function here($x) { return $x; }
const INFO = 'ob_start(); phpinfo(INFO_MODULES); preg_match("/^state => .*/m", ob_get_clean(), $m); echo $m[0], "\n";';
eval(INFO);
t_on();
here('main');
$code = 'function here($x) { return $x; } for ($n = 0; $n < 2000; $n++) here("thread");';
$threads = [];
for ($n = 0; $n < 8; $n++) $threads[] = threads_start($code, 10);
for ($n = 0; $n < 100; $n++) here('main');
foreach ($threads as $thread) threads_join($thread);
threads_join(threads_start(INFO));
$who = [];
foreach (t_records() as $r) if ($r['function'] === 'here' && $r['kind'] === 1) $who[] = $r['values'];
print_r(array_count_values($who));
$header = t_header();
echo "state $header[state], requests $header[requests]\n";
t_off();
eval(INFO);
?>
--EXPECT--
state => ready, switched off
state => not traced: another thread of this process is, until it ends
Array
(
    [$x = "main"] => 101
)
state 2, requests 1
state => ready, switched off

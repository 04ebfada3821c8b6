--TEST--
A thread that ends gives the tracer to the next; with others at work idle is not known
--SKIPIF--
<?php if (!function_exists('threads_start')) die('skip this PHP is not thread-safe'); ?>
--ENV--
THREADS_FIRST=function a() {} $go = ini_get('nbguard.directory') . '/go-' . getmypid(); while (!file_exists($go)) usleep(1000); a(); unlink($go);
--FILE--
<?php
require __DIR__ . '/trace.inc';
function main() {}
const INFO = 'ob_start(); phpinfo(INFO_MODULES); preg_match("/^state => .*/m", ob_get_clean(), $m); echo $m[0], "\n";';
eval(INFO);
t_on(ON);
main();
touch(t_dir() . '/go-' . getmypid());
threads_join(0);
$header = t_header();
echo "state $header[state], requests $header[requests], tracing $header[tracing]\n";
threads_join(threads_start('function b() {} b();', 2));
main();
$header = t_header();
echo "state $header[state], requests $header[requests], tracing $header[tracing]\n";
foreach (t_records() as $r) {
    if ($r['kind'] === 7) echo $r['values'], "\n";
    if ($r['kind'] === 1 && in_array($r['function'], ['a', 'b', 'main'])) echo $r['function'], "()\n";
}
t_switch(0, 0);
threads_join(threads_start(INFO));
$threads = [];
// Threads that come and go, while the switch does: nothing is written for one that has gone.
for ($n = 0; $n < 400; $n++) {
    if ($n % 50 === 0) t_switch($n % 100 ? 0 : ON, 2 + $n);
    if ($n >= 8) threads_join($threads[$n - 8]);
    $threads[] = threads_start('function c() {} for ($n = 0; $n < 500; $n++) c();', 3);
}
foreach ($threads as $thread) threads_join($thread);
t_switch(0, 0);
threads_join(threads_start(INFO));
?>
--EXPECT--
state => not traced: another thread of this process is, until it ends
state 0, requests 1, tracing 0
state 0, requests 3, tracing 0
tracing is on
a()
tracing is off: the thread that was traced has ended
tracing is on
b()
b()
tracing is off: the thread that was traced has ended
state => ready, switched off
state => ready, switched off
